"""Where the coders of a run stand: what each reads and writes, from what was typed for `--reads` and `--writes`."""

from __future__ import annotations

from dataclasses import dataclass

from saescope.errors import UsageError
from saescope.lm import Expression, PointNames, condensed


@dataclass(frozen=True)
class Place:
    """The hook points of one coder. `writes` is empty for one that writes what it reads."""

    reads: tuple[str, ...]
    writes: tuple[str, ...] = ()


def places_of(reads: Expression, writes: Expression, available: PointNames) -> list[Place]:
    """A place for each group of `reads`, paired in order with those of `writes`; every available point where neither is
    given. UsageError, in one line, for points that do not exist and for unequal numbers of groups."""
    reading, writing = available.groups(reads), available.groups(writes)
    if not reading and writing:
        raise UsageError("a transcoder needs the hook points it reads as well: give --reads")
    if writing and len(reading) != len(writing):
        raise UsageError(
            f"--reads names the points of {_coders(reading)} and --writes of {_coders(writing)}; they are paired in order, "
            "so name as many (a+b joins points of one coder)"
        )
    if writing:
        return [Place(*pair) for pair in zip(reading, writing, strict=True)]
    places = [Place(group) for group in reading] or [Place((point,)) for point in available.names]
    if not places:
        raise UsageError("no hook point to train on; give --reads")
    return places


def labels(places: list[Place]) -> list[str]:
    """A distinct name for each place, as short as that allows: what it writes, else what it reads, else both. Equal places
    keep equal names. A single place needs none: the empty string."""
    if len(places) == 1:
        return [""]
    written = [_together(place.writes or place.reads) for place in places]
    read = [_together(place.reads) for place in places]
    for names in (written, read):
        if len(set(names)) == len(places):
            return names
    return [a if a == b else f"{a}-to-{b}" for a, b in zip(read, written, strict=True)]


def _together(points: tuple[str, ...]) -> str:
    """As a part of a folder's name: `mlp_in.3+mlp_in.4`, many points as ranges."""
    plain = "+".join(points)
    return plain if len(points) < 4 else condensed(points).replace(", ", "+").replace(":", "by")


def _coders(groups: list[tuple[str, ...]]) -> str:
    return f"{len(groups)} coder{'s' if len(groups) != 1 else ''}"
