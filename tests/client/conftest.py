"""Fixtures of everything that talks HTTP."""

from tests.hooks.support import clean_environment, connect, deferrals_of_any_length, dify, face, naps

__all__ = ["clean_environment", "connect", "deferrals_of_any_length", "dify", "face", "naps"]
