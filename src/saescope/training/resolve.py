"""A run's configuration from a file, overriding options, and what the activations offer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saescope.coders import architecture_type
from saescope.errors import UsageError
from saescope.training.config import TrainConfig


def resolve(
    file: str | Path | None,
    run: dict[str, Any],
    coder: dict[str, Any],
    *,
    archs: Sequence[str] = (),
    l0s: Sequence[float] = (),
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
    available: Sequence[str] = (),
) -> TrainConfig:
    """The run's configuration: `file` (or the defaults) with everything given laid over it.

    `run` and `coder` hold settings of the run and of each of its coders; None means not given, and `coder["options"]` are
    laid over the architecture's own. Several `archs` and wanted `l0s` make one coder of each combination. Without `reads`,
    every available hook point gets its own coders; `writes` makes them transcoders of all of `reads`.
    """
    given_run = {key: value for key, value in run.items() if value is not None}
    given = {key: value for key, value in coder.items() if value is not None}
    if "seed" in given_run:
        given.setdefault("seed", given_run["seed"])
    if file is not None:
        base = TrainConfig.from_yaml(file).model_dump(mode="json")
        own = [_with(part, given, archs, l0s, reads, writes) for part in base.pop("coders")]
        return TrainConfig.from_data(base | given_run | {"coders": own}, str(file))
    places = _places(reads, writes, available)
    combinations = list(itertools.product(archs or ["batchtopk"], list[float | None](l0s) or [None], places))
    coders = []
    for arch, l0, (reading, writing) in combinations:
        name = _name(arch, l0 if len(l0s) > 1 else None, reading[0] if len(places) > 1 else None)
        options = _options(arch, l0) | given.get("options", {})
        coders.append({"name": name, "arch": arch, "reads": reading, "writes": writing} | given | {"options": options})
    return TrainConfig.from_data(given_run | {"coders": coders})


def _places(reads: Sequence[str], writes: Sequence[str], available: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    if writes:
        if not reads:
            raise UsageError("a transcoder needs the hook points it reads as well: give --reads")
        return [(list(reads), list(writes))]
    points = list(reads or available)
    if not points:
        raise UsageError("no hook point to train on; give --reads")
    return [([point], []) for point in points]


def _options(arch: str, l0: float | None) -> dict[str, Any]:
    """The wanted L0 under the name that the architecture has for it."""
    # An unknown architecture is refused here rather than by validation, so that the message names what was typed.
    option = architecture_type(arch).l0_option
    if l0 is None:
        return {}
    return {option: int(l0) if float(l0).is_integer() else l0}


def _with(
    part: dict[str, Any],
    given: dict[str, Any],
    archs: Sequence[str],
    l0s: Sequence[float],
    reads: Sequence[str],
    writes: Sequence[str],
) -> dict[str, Any]:
    if len(archs) > 1 or len(l0s) > 1:
        raise UsageError("with --config, give at most one --arch and one --l0: they override every coder of the file")
    changed = part | given
    if archs:
        changed["arch"] = archs[0]
    # Options of another architecture mean nothing to the one given.
    kept = part["options"] if changed["arch"] == part["arch"] else {}
    changed["options"] = kept | _options(changed["arch"], l0s[0] if l0s else None) | given.get("options", {})
    if reads:
        changed["reads"] = list(reads)
    if writes:
        changed["writes"] = list(writes)
    return changed


def _name(arch: str, l0: float | None, point: str | None) -> str:
    parts = [arch, None if l0 is None else f"l0-{l0:g}", point]
    return "-".join(part for part in parts if part)
