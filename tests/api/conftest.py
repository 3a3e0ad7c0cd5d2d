"""Property tests keep no files and no time limit of their own: the machine may be busy."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("dify", deadline=None, database=None)
settings.load_profile("dify")
