"""What `saescope eval` measured of the coders that are served."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from saescope.evaluation.definitions import BY_KEY
from saescope.features.index.manifest import IndexedCoder

METRICS_FILE = "metrics.json"
_SHOWN = (
    "fvu_centered", "explained_variance", "cosine", "l0", "dead_fraction", "dense_10", "ce_recovered_mean",
    "ce_increase", "kl",
)  # fmt: skip


class Evaluations:
    """The records below a workspace. Files are read again when they change."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[int, Any]] = {}

    def look(self, paths: Sequence[Path]) -> None:
        self._read = {
            path: known
            if (known := self._read.get(path)) and known[0] == changed_at(path)
            else (changed_at(path), json_in(path))
            for path in paths
        }

    def of(self, coder: IndexedCoder, served: Sequence[IndexedCoder]) -> dict[str, Any] | None:
        """The newest evaluation of one of the coders that are served; of another coder of its name, none.

        A record without a fingerprint is of the coder of its name where only one is served and nothing in it says otherwise.
        """
        named = {one.fingerprint for one in served if one.name == coder.name}
        own: dict[str, Any] | None = None
        by_name: dict[str, Any] | None = None
        for record in self._records():
            about = record["coder"]
            if about.get("fingerprint") == coder.fingerprint:
                own = record
            elif "fingerprint" not in about and len(named) == 1 and _alike(about, coder):
                by_name = record
        return own or by_name

    def _records(self) -> Iterator[dict[str, Any]]:
        """The oldest first."""
        for _, content in sorted(self._read.values(), key=lambda known: known[0]):
            for record in content if isinstance(content, list) else [content]:
                if isinstance(record, dict) and isinstance(record.get("coder"), dict):
                    yield record


def _alike(about: dict[str, Any], coder: IndexedCoder) -> bool:
    known = all(about.get(key) in (None, getattr(coder, key)) for key in ("d_in", "d_sae", "reads", "writes"))
    return about.get("name") == coder.name and known


def shown_metrics(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """A coder's numbers beside its controls'. Anyone may have written the file: what is not as it should be is left out."""
    if record is None:
        return None
    controls, intervals = _table(record.get("controls")), _table(_table(record.get("intervals")).get("coder"))
    found = {}
    for key in _SHOWN:
        value = _number(record["coder"].get(key))
        if value is None:
            continue
        found[key] = {
            "label": BY_KEY[key].label,
            "value": value,
            "controls": {
                name: number
                for name, numbers in controls.items()
                if (number := _number(_table(numbers).get(key))) is not None
            },
            "interval": _interval(intervals.get(key)),
        }
    return found or None


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _interval(value: Any) -> list[float] | None:
    bounds = [_number(bound) for bound in value] if isinstance(value, list) else []
    low, high = bounds if len(bounds) == 2 else (None, None)
    return None if low is None or high is None else [low, high]


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def changed_at(path: Path) -> int:
    """When a file was last written, in nanoseconds; 0 where there is none."""
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0


def json_in(path: Path) -> Any:
    """What a file has, or None where it is not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
