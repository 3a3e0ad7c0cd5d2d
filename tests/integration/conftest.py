"""Fixtures of the tests that run DAGs."""

from tests.hooks.support import clean_environment, connect, deferrals_of_any_length, dify, naps

__all__ = ["clean_environment", "connect", "deferrals_of_any_length", "dify", "naps"]
