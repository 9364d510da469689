"""Coders trained on known features and measured against them, as a folder: begun, continued or found complete by the same
request.

OUT/request.json        what was asked for
OUT/seed-S/             the training run of each seed (`training.run`), all coders on the same batches
OUT/synthetic.json      every number; written last
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

import saescope
from saescope.coders import SparseCoder, architecture_type, load
from saescope.errors import CoderError, OccupiedError, SaescopeError, UsageError, first_mistake
from saescope.evaluation.resampling import interval_over_seeds
from saescope.evaluation.stability import stability
from saescope.evaluation.synthetic.config import SyntheticConfig
from saescope.evaluation.synthetic.controls import chance, oracle
from saescope.evaluation.synthetic.ground_truth import GroundTruth
from saescope.evaluation.synthetic.recovery import METRICS, Recovery, recovery
from saescope.evaluation.synthetic.stream import POINT, SyntheticStream
from saescope.progress import Progress, silent
from saescope.training import CoderConfig, TrainConfig, Watcher, train
from saescope.whole_files import read_json, write_json

SCHEMA = 1
REQUEST, RESULT = "request.json", "synthetic.json"
# Rows on which the random control's threshold is settled, as evaluation does.
_CONTROL_ROWS = 16384
_RESAMPLES = 1000

Watching = Callable[[], AbstractContextManager[Watcher | None]]
Measuring = Callable[[], AbstractContextManager[Progress]]


class TrialRequest(BaseModel):
    """Which coders, on how many rows of which truth. A coder of every architecture and L0, for every seed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    synthetic: SyntheticConfig
    archs: tuple[str, ...] = ("batchtopk", "matryoshka")
    l0s: tuple[float, ...] = Field(min_length=1)
    d_sae: int = Field(gt=1)
    tokens: int = Field(gt=0, description="rows that each coder is trained on")
    batch_size: int = Field(default=1024, gt=0)
    seeds: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    lr: float | None = Field(default=None, gt=0, description="peak learning rate; default: saescope's own")
    settings: dict[str, Any] = Field(default_factory=dict, description="any other of `TrainConfig`, such as betas")
    measured: int = Field(default=2**17, gt=0, description="rows that coders are measured on")

    @model_validator(mode="after")
    def _possible(self) -> TrialRequest:
        if not self.archs:
            raise UsageError("no architecture given; name at least one, such as batchtopk")
        for name, given in (("seeds", self.seeds), ("architectures", self.archs), ("L0s", self.l0s)):
            if len(set(given)) < len(given):
                raise UsageError(f"{name} must differ, got {', '.join(map(str, given))}")
        if min(self.seeds) < 0:
            raise UsageError(f"seeds must not be negative, got {min(self.seeds)}")
        for seed in self.seeds:
            self.training(seed)
        return self

    def training(self, seed: int) -> TrainConfig:
        """The run of one seed."""
        coders = [
            CoderConfig(
                name=name,
                arch=arch,
                d_sae=self.d_sae,
                options=_options(arch, l0),
                reads=(POINT,),
                lr=self.lr,
                seed=seed,
            )
            for name, arch, l0 in self.named()
        ]
        fixed = {"coders": coders, "batch_size": self.batch_size, "passes": 1, "seed": seed}
        if both := sorted((fixed.keys() | {"lr"}) & self.settings.keys()):
            raise UsageError(f"a synthetic trial settles {', '.join(both)} by options of its own")
        return TrainConfig.from_data(self.settings | fixed, "the training settings")

    def named(self) -> list[tuple[str, str, float]]:
        """(name, architecture, L0) of the coders that every seed has."""
        several = len(self.l0s) > 1
        return [
            (f"{arch}-l0-{l0:g}" if several else arch, arch, l0) for arch, l0 in itertools.product(self.archs, self.l0s)
        ]

    @staticmethod
    def from_data(**given: Any) -> TrialRequest:
        """A one-line `UsageError` about the first wrong entry."""
        try:
            return TrialRequest.model_validate(given)
        except ValidationError as error:
            raise UsageError(first_mistake(error, given=True)) from None


def trial(
    request: TrialRequest,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    watching: Watching | None = None,
    measuring: Measuring | None = None,
) -> dict[str, Any]:
    """Train and measure all that was asked for under `out` and return the record; an interrupted trial of the same request
    goes on, a complete one is only read. `watching()` is entered for every training run, `measuring()` once after them.
    `OccupiedError` where the folder holds anything else."""
    out = Path(out)
    complete = _claim(out, request)
    if complete is not None:
        return complete
    # Drawn where it is trained on, but for devices without float64.
    truth = GroundTruth.of(request.synthetic, device if torch.device(device).type == "cuda" else "cpu")
    for seed in request.seeds:
        source = SyntheticStream(truth, tokens=request.tokens, batch_size=request.batch_size, seed=seed)
        with (watching or nullcontext)() as watcher:
            train(request.training(seed), source, out / f"seed-{seed}", device=device, watcher=watcher)
    with (measuring or _unwatched)() as progress:
        record = _measured(request, truth, out, progress)
    write_json(out / RESULT, record)
    return record


def _measured(request: TrialRequest, truth: GroundTruth, out: Path, progress: Progress) -> dict[str, Any]:
    source = SyntheticStream(truth, tokens=request.tokens, batch_size=request.batch_size)
    everything = list(itertools.product(request.seeds, request.named()))
    total, done = len(everything) + 1 + len(request.l0s), 0

    def measured(coder: SparseCoder, **options: Any) -> Recovery:
        nonlocal done
        progress("measure", done, total)
        found = recovery(coder, truth, source.measured_rows(request.measured), resamples=_RESAMPLES, **options)
        done += 1
        progress("measure", done, total)
        return found

    known, encode = oracle(truth, request.d_sae)
    controls: dict[str, Any] = {"oracle": {"d_sae": known.d_sae, **measured(known, encode=encode).to_dict()}}
    sample = torch.cat([part.x for part in source.measured_rows(_CONTROL_ROWS)])
    for l0 in request.l0s:
        random = chance(truth, request.d_sae, l0, sample)
        controls["frozen_random" if len(request.l0s) == 1 else f"frozen_random-l0-{l0:g}"] = measured(random).to_dict()
    found: dict[tuple[int, str], Recovery] = {}
    coders = []
    for seed, (name, arch, l0) in everything:
        coder = load(_folder(out, seed, name), device=truth.device)
        found[seed, name] = measured(coder)
        seconds = coder.metadata.training.get("seconds")
        who = {"name": name, "arch": arch, "wanted_l0": l0, "seed": seed, "run_seconds": seconds}
        coders.append(who | found[seed, name].to_dict())
    by_arch = []
    for name, arch, l0 in request.named():
        mine = [found[seed, name] for seed in request.seeds]
        summary = {
            "name": name,
            "arch": arch,
            "wanted_l0": l0,
            "seeds": len(mine),
            **over_seeds(part.metrics for part in mine),
        }
        if len(mine) > 1:
            group = [load(_folder(out, seed, name)) for seed in request.seeds]
            summary["stability"] = _stability(group, [part.density for part in mine])
        by_arch.append(summary)
    return {
        "schema": SCHEMA,
        "complete": True,
        "saescope": saescope.__version__,
        "request": request.model_dump(mode="json"),
        "truth": {
            "features": truth.n_features,
            "d_in": truth.directions.shape[1],
            "expected_l0": float(truth.forest.rate.sum()),
        },
        "controls": controls,
        "coders": coders,
        "by_arch": by_arch,
    }


def _stability(coders: list[SparseCoder], densities: list[torch.Tensor]) -> dict[str, Any]:
    """The record over seeds, or {"absent": reason}: a coder whose latents all died is a finding, not the end of a trial."""
    try:
        return stability(coders, densities, resamples=_RESAMPLES)
    except CoderError as error:
        return {"absent": str(error)}


def over_seeds(records: Iterable[dict[str, float | None]]) -> dict[str, Any]:
    """{"mean": by metric, "intervals": by metric, by Student's t over three seeds or more}. None where a number is missing."""
    records = list(records)
    mean: dict[str, float | None] = {}
    ranges: dict[str, list[float] | None] = {}
    for name in METRICS:
        values = [record[name] for record in records]
        known = [value for value in values if value is not None]
        whole = len(known) == len(values)
        mean[name] = fmean(known) if whole else None
        found = interval_over_seeds(known) if whole else None
        ranges[name] = None if found is None else list(found)
    return {"mean": mean, "intervals": ranges}


def _folder(out: Path, seed: int, name: str) -> Path:
    return out / f"seed-{seed}" / "coders" / name


def _options(arch: str, l0: float) -> dict[str, Any]:
    option = architecture_type(arch, trainable=True).l0_option
    if option == "k" and not float(l0).is_integer():
        raise UsageError(f"architecture {arch!r} chooses a whole number of latents, got an L0 of {l0:g}")
    return {option: int(l0) if option == "k" else l0}


def _claim(out: Path, request: TrialRequest) -> dict[str, Any] | None:
    """Make `out` this trial's folder; its record where it is complete."""
    asked = json.loads(request.model_dump_json())
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        if not (out / REQUEST).is_file():
            raise OccupiedError(f"{out} exists and is not a synthetic trial; choose another --out")
        advice = f"choose another --out or delete {out}"
        if read_json(out / REQUEST, advice) != asked:
            raise OccupiedError(f"{out} holds a trial of another request (see {out / REQUEST}); choose another --out")
        return read_json(out / RESULT, advice) if (out / RESULT).exists() else None
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaescopeError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
    write_json(out / REQUEST, asked)
    return None


def _unwatched() -> AbstractContextManager[Progress]:
    return nullcontext(silent)
