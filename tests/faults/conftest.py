"""Fixtures of the tests that inject faults."""

from tests.hooks.support import clean_environment, deferrals_of_any_length, naps

__all__ = ["clean_environment", "deferrals_of_any_length", "naps"]
