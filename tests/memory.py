"""By how much the memory of this process grows."""

from __future__ import annotations

import re
import resource
from contextlib import suppress
from pathlib import Path


class Growth:
    """Measures by how many MiB this process grows at most, from here on."""

    def __init__(self) -> None:
        self._before = self._peak()
        # Otherwise the peak is that of the past, and after a fork that of another process.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
            self._before = self._peak()

    def mib(self) -> float:
        """Return the growth."""
        return self._peak() - self._before

    def _peak(self) -> float:
        with suppress(OSError):
            return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) / 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
