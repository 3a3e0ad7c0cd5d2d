"""How files hold what Airflow's database held: ids and moments of the recording are replaced by names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STORED = Path(__file__).parent / "stored"
NOW = re.compile(r"<now([+-]\d+)>")


def generalised(value: Any, names: Mapping[str, str], now: float) -> Any:
    """Return a stored value with names for ids, and distances from the beginning of the recording for moments."""
    if isinstance(value, Mapping):
        return {key: generalised(each, names, now) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [generalised(each, names, now) for each in value]
    if isinstance(value, str):
        for text, name in names.items():
            value = value.replace(text, f"<{name}>")
    elif isinstance(value, float) and abs(value - now) < 86400:
        return f"<now{round(value - now):+d}>"
    return value


def restored(value: Any, names: Mapping[str, str], now: float) -> Any:
    """Return what a task stored at ``now`` about the things of these names."""
    if isinstance(value, dict):
        return {key: restored(each, names, now) for key, each in value.items()}
    if isinstance(value, list):
        return [restored(each, names, now) for each in value]
    if isinstance(value, str):
        if moment := NOW.fullmatch(value):
            return now + int(moment[1])
        for name, text in names.items():
            value = value.replace(f"<{name}>", text)
    return value


def load(name: str) -> Any:
    return json.loads((STORED / f"{name}.json").read_text(encoding="utf-8"))


def save(name: str, value: Any) -> None:
    STORED.mkdir(exist_ok=True)
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    (STORED / f"{name}.json").write_text(text, encoding="utf-8")
