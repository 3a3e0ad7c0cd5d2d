"""Fixtures of everything that talks HTTP."""

from tests.hooks.support import clean_environment, deferrals_of_any_length

__all__ = ["clean_environment", "deferrals_of_any_length"]
