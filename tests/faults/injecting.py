"""Faults in a random order, all kinds once before any comes again."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

PAUSE = (3.0, 9.0)


class Injector:
    """Causes one fault after the other, and counts them by their names.

    :param choices: Chooses.
    :param kinds: What can be done; each returns whether it was. One that stands there twice comes twice as often.
    """

    def __init__(self, choices: random.Random, kinds: Sequence[Callable[[], bool]]) -> None:
        self._choices = choices
        self._kinds = kinds
        self._next: list[Callable[[], bool]] = []
        self.counts: Counter[str] = Counter({kind.__name__: 0 for kind in kinds})

    def inject(self) -> None:
        if not self._next:
            self._next = self._choices.sample(self._kinds, len(self._kinds))
        kind = self._next.pop()
        if kind():
            self.counts[kind.__name__] += 1
            print(f"  {kind.__name__}", flush=True)

    def did_all(self) -> bool:
        return all(self.counts.values())

    def pause(self) -> None:
        time.sleep(self._choices.uniform(*PAUSE))
