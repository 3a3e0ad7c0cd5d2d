"""What to do next, as pure functions and generators: no sockets, no files, no clock.

Internal. Public are the modules that docs/reference.md names.
"""
