"""Sockets and files: one exchange with its deadline and limits, over requests and aiohttp; object stores.

Internal. Public are the modules that docs/reference.md names.
"""
