"""What Dify's HTTP API says, as values: no sockets, no clock.

Internal. Public are the modules that docs/reference.md names.
"""
