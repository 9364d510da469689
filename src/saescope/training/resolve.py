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
    ks: Sequence[int] = (),
    reads: Sequence[str] = (),
    writes: Sequence[str] = (),
    available: Sequence[str] = (),
) -> TrainConfig:
    """The run's configuration: `file` (or the defaults) with everything given laid over it.

    `run` and `coder` hold settings of the run and of each of its coders; None means not given. Several `archs` and `ks`
    make one coder of each combination. Without `reads`, every available hook point gets its own coders; `writes` makes
    them transcoders of all of `reads`.
    """
    given_run = {key: value for key, value in run.items() if value is not None}
    given = {key: value for key, value in coder.items() if value is not None}
    if "seed" in given_run:
        given.setdefault("seed", given_run["seed"])
    if file is not None:
        base = TrainConfig.from_yaml(file).model_dump(mode="json")
        own = [part | given for part in base.pop("coders")]
        own = [_with(part, archs, ks, reads, writes) for part in own]
        return TrainConfig.from_data(base | given_run | {"coders": own}, str(file))
    places = _places(reads, writes, available)
    combinations = list(itertools.product(archs or ["batchtopk"], list[int | None](ks) or [None], places))
    coders = []
    for arch, k, (reading, writing) in combinations:
        # Refused here rather than by validation, so that the message names what was typed.
        architecture_type(arch)
        name = _name(arch, k if len(ks) > 1 else None, reading[0] if len(places) > 1 else None)
        options = {} if k is None else {"k": k}
        coders.append({"name": name, "arch": arch, "options": options, "reads": reading, "writes": writing} | given)
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


def _with(
    part: dict[str, Any], archs: Sequence[str], ks: Sequence[int], reads: Sequence[str], writes: Sequence[str]
) -> dict[str, Any]:
    if len(archs) > 1 or len(ks) > 1:
        raise UsageError("with --config, give at most one --arch and one --k: they override every coder of the file")
    changed = dict(part)
    if archs:
        changed["arch"] = archs[0]
    if ks:
        changed["options"] = {**part["options"], "k": ks[0]}
    if reads:
        changed["reads"] = list(reads)
    if writes:
        changed["writes"] = list(writes)
    return changed


def _name(arch: str, k: int | None, point: str | None) -> str:
    parts = [arch, None if k is None else f"k{k}", point]
    return "-".join(part for part in parts if part)
