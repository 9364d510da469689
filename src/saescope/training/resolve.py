"""A run's configuration from a file, overriding options, and what the activations offer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saescope.coders import architecture_type
from saescope.errors import UsageError
from saescope.lm import Expression, PointNames
from saescope.training.config import TrainConfig
from saescope.training.places import labels, places_of


def resolve(
    file: str | Path | None,
    run: dict[str, Any],
    coder: dict[str, Any],
    *,
    archs: Sequence[str] = (),
    ks: Sequence[int] = (),
    reads: Expression = (),
    writes: Expression = (),
    available: PointNames | Sequence[str] = (),
) -> TrainConfig:
    """The run's configuration: `file` (or the defaults) with everything given laid over it.

    `run` and `coder` hold settings of the run and of each of its coders; None means not given. Several `archs` and `ks`
    make one coder of each combination, at each place that `reads` and `writes` name: expressions such as `"mlp_in.*"`,
    paired in order, expanded against the `available` hook points (none given: nobody knows which exist). Without `reads`,
    every available point gets its own coders.
    """
    if not isinstance(available, PointNames):
        available = PointNames(available or None, "the activations")
    given_run = {key: value for key, value in run.items() if value is not None}
    given = {key: value for key, value in coder.items() if value is not None}
    if "seed" in given_run:
        given.setdefault("seed", given_run["seed"])
    if file is not None:
        base = TrainConfig.from_yaml(file).model_dump(mode="json")
        own = [part | given for part in base.pop("coders")]
        place = {"reads": _one_group("--reads", reads, available), "writes": _one_group("--writes", writes, available)}
        own = [_with(part, archs, ks) | {key: list(points) for key, points in place.items() if points} for part in own]
        return TrainConfig.from_data(base | given_run | {"coders": own}, str(file))
    places = places_of(reads, writes, available)
    named = list(zip(places, labels(places), strict=True))
    coders = []
    for arch, k, (where, label) in itertools.product(archs or ["batchtopk"], list[int | None](ks) or [None], named):
        # Refused here rather than by validation, so that the message names what was typed.
        architecture_type(arch)
        name = _name(arch, k if len(ks) > 1 else None, label)
        options = {} if k is None else {"k": k}
        points = {"reads": list(where.reads), "writes": list(where.writes)}
        coders.append({"name": name, "arch": arch, "options": options, **points} | given)
    return TrainConfig.from_data(given_run | {"coders": coders})


def _one_group(option: str, expression: Expression, available: PointNames) -> tuple[str, ...]:
    groups = available.groups(expression)
    if len(groups) > 1:
        raise UsageError(
            f"with --config, {option} takes the points of one coder, joined by +: it overrides every coder's"
        )
    return groups[0] if groups else ()


def _with(part: dict[str, Any], archs: Sequence[str], ks: Sequence[int]) -> dict[str, Any]:
    if len(archs) > 1 or len(ks) > 1:
        raise UsageError("with --config, give at most one --arch and one --k: they override every coder of the file")
    changed = dict(part)
    if archs:
        changed["arch"] = archs[0]
    if ks:
        changed["options"] = {**part["options"], "k": ks[0]}
    return changed


def _name(arch: str, k: int | None, place: str) -> str:
    parts = [arch, None if k is None else f"k{k}", place]
    return "-".join(part for part in parts if part)
