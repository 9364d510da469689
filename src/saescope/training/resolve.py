"""A run's configuration from a file, overriding options, and what the activations offer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from saescope.coders import architecture_type
from saescope.errors import UsageError
from saescope.lm import Expression, PointNames
from saescope.training import defaults
from saescope.training.config import FOR_EVERY_CODER, TrainConfig
from saescope.training.places import labels, places_of


def resolve(
    file: str | Path | None,
    run: dict[str, Any],
    coder: dict[str, Any],
    *,
    archs: Sequence[str] = (),
    l0s: Sequence[float] = (),
    reads: Expression = (),
    writes: Expression = (),
    available: PointNames | Sequence[str] = (),
    rows: int | None = None,
) -> TrainConfig:
    """The run's configuration: `file` (or the defaults) with everything given laid over it.

    `run` and `coder` hold settings of the run and of each of its coders; None means not given, and `coder["options"]` are
    laid over the architecture's own. What only a coder can have (`resample`) goes from `run` to each coder. Several `archs` and
    wanted `l0s` make one coder of each combination, at each place that `reads` and `writes` name: expressions such as
    `"mlp_in.*"`, paired in order, expanded against the `available` hook points (none given: nobody knows which exist). Without
    `reads`, every available point gets its own coders.

    `rows`: training rows of one pass; where the batch size is not given it follows from them (`defaults.batch_size`).
    """
    if not isinstance(available, PointNames):
        available = PointNames(available or None, "the activations")
    given_run = {key: value for key, value in run.items() if value is not None}
    given = {key: given_run.pop(key) for key in FOR_EVERY_CODER & given_run.keys()}
    given |= {key: value for key, value in coder.items() if value is not None}
    if "seed" in given_run:
        given.setdefault("seed", given_run["seed"])
    if file is not None:
        base = TrainConfig.from_yaml(file).model_dump(mode="json")
        own = [_with(part, given, archs, l0s) for part in base.pop("coders")]
        place = {"reads": _one_group("--reads", reads, available), "writes": _one_group("--writes", writes, available)}
        own = [part | {key: list(points) for key, points in place.items() if points} for part in own]
        config = TrainConfig.from_data(base | given_run | {"coders": own}, str(file))
        available.points(config.points)  # refuses what is not there
        return config
    places = places_of(reads, writes, available)
    named = list(zip(places, labels(places), strict=True))
    coders = []
    for arch, l0, (where, label) in itertools.product(archs or ["batchtopk"], list[float | None](l0s) or [None], named):
        name = _name(arch, l0 if len(l0s) > 1 else None, label)
        options = _options(arch, l0) | given.get("options", {})
        points = {"reads": list(where.reads), "writes": list(where.writes)}
        coders.append({"name": name, "arch": arch, **points} | given | {"options": options})
    config = TrainConfig.from_data(given_run | {"coders": coders})
    if rows is None or "batch_size" in given_run:
        return config
    return config.model_copy(update={"batch_size": defaults.batch_size(rows * config.passes)})


def _one_group(option: str, expression: Expression, available: PointNames) -> tuple[str, ...]:
    groups = available.groups(expression)
    if len(groups) > 1:
        raise UsageError(
            f"with --config, {option} takes the points of one coder, joined by +: it overrides every coder's"
        )
    return groups[0] if groups else ()


def _options(arch: str, l0: float | None) -> dict[str, Any]:
    """The wanted L0 under the name that the architecture has for it."""
    # An unknown architecture is refused here rather than by validation, so that the message names what was typed.
    kind = architecture_type(arch, trainable=True)
    option = kind.l0_option
    if l0 is None:
        return {}
    return {option: int(l0) if float(l0).is_integer() else l0}


def _with(part: dict[str, Any], given: dict[str, Any], archs: Sequence[str], l0s: Sequence[float]) -> dict[str, Any]:
    if len(archs) > 1 or len(l0s) > 1:
        raise UsageError("with --config, give at most one --arch and one --l0: they override every coder of the file")
    changed = part | given
    if archs:
        changed["arch"] = archs[0]
    # Options of another architecture mean nothing to the one given.
    kept = part["options"] if changed["arch"] == part["arch"] else {}
    changed["options"] = kept | _options(changed["arch"], l0s[0] if l0s else None) | given.get("options", {})
    return changed


def _name(arch: str, l0: float | None, place: str) -> str:
    parts = [arch, None if l0 is None else f"l0-{l0:g}", place]
    return "-".join(part for part in parts if part)
