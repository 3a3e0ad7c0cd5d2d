"""Fixtures of the tests that inject faults."""

from tests.hooks.support import clean_environment, naps

__all__ = ["clean_environment", "naps"]
