"""Fixtures of everything that talks HTTP."""

from tests.hooks.support import clean_environment, connect, dify, face, naps

__all__ = ["clean_environment", "connect", "dify", "face", "naps"]
