"""Fixtures of the tests that run DAGs."""

from tests.hooks.support import clean_environment, connect, dify, naps

__all__ = ["clean_environment", "connect", "dify", "naps"]
