"""Whether training again, with another seed, finds the same latents (Paulo & Belrose, 2025: often a third does).

Two coders' live latents are paired one to one so that the sum of decoder cosines is largest (Hungarian). A latent is
*found again* when its partner's cosine is at least .7; latents left over by an unequal count are not found again. Cosines are
signed: a latent that points the other way is another one.

    share           latents found again / live latents of both coders together
    mean_cosine     mean cosine of the pairs

Both are averages over all pairs of coders. Controls, measured the same way:

    random      each coder paired with random unit directions of the same shape: what chance gives in this width
    shuffled    the pairs of the coders themselves, partners shuffled: what any two latents of these coders have
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.coders import SparseCoder
from saescope.errors import CoderError, UsageError
from saescope.evaluation.bootstrap import RESAMPLES
from saescope.evaluation.matching import Pairing, pairing, unit
from saescope.evaluation.part import Estimate, Part, Score
from saescope.evaluation.resampling import mean_interval
from saescope.evaluation.seeding import STABILITY, seeded
from saescope.evaluation.setting import Setting
from saescope.evaluation.subject import Subject

NAME, TITLE = "stability", "Stability over seeds"
FOUND_AGAIN = 0.7


@torch.no_grad()
def stability(
    coders: Sequence[SparseCoder],
    densities: Sequence[Float[Tensor, "d_sae"]] | None = None,
    *,
    threshold: float = FOUND_AGAIN,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The record of two or more coders of one shape, trained on the same data with other seeds.

    densities: the share of tokens on which each latent fires; latents with 0 are dead and left out. Intervals are over latents:
    those of each coder are resampled, and the ends averaged over coders. Memory: one float64 matrix [d_sae, d_sae] at a time;
    9,216 latents take about 10 s a pair. UsageError for fewer than two coders or other shapes, CoderError for a coder
    without a live latent.
    """
    live = _live(coders, densities)
    directions = [
        unit(coder.W_dec)[kept.to(coder.W_dec.device)].cpu() for coder, kept in zip(coders, live, strict=True)
    ]
    generator = seeded(STABILITY, seed)
    # [coder][other]: of each live latent of a coder, the cosine with its partner in the other; -1 where it has none.
    partner: list[list[Tensor]] = [[] for _ in coders]
    real, shuffled = _Tally(threshold), _Tally(threshold)
    for i, j in itertools.combinations(range(len(coders)), 2):
        a, b = directions[i], directions[j]
        found = pairing(a, b)
        real.add(found.cosine, a.shape[0] + b.shape[0])
        partner[i].append(_by_latent(found.left, found.cosine, a.shape[0]))
        partner[j].append(_by_latent(found.right, found.cosine, b.shape[0]))
        other = found.right[torch.randperm(found.right.numel(), generator=generator)]
        shuffled.add((a[found.left] * b[other]).sum(1).double(), a.shape[0] + b.shape[0])
    random = _Tally(threshold)
    for a in directions:
        drawn = unit(torch.randn(a.shape, generator=generator))
        random.add(pairing(a, drawn).cosine, 2 * a.shape[0])
    return {
        "share": real.share,
        "mean_cosine": real.mean_cosine,
        "intervals": {
            "share": _interval([(torch.stack(rows) >= threshold).double() for rows in partner], resamples, seed),
            "mean_cosine": _interval([torch.stack(rows) for rows in partner], resamples, seed, paired_only=True),
        },
        "controls": {
            "random": {"share": random.share, "mean_cosine": random.mean_cosine},
            "shuffled": {"share": shuffled.share, "mean_cosine": shuffled.mean_cosine},
        },
        "threshold": threshold,
        "coders": len(coders),
        "d_sae": coders[0].d_sae,
        "live_latents": [int(kept.sum()) for kept in live],
    }


def measure(subjects: Sequence[Subject], setting: Setting) -> list[Part]:
    """The suite's part: every coder with those beside it that differ in their seed only. `setting.densities`, where given,
    says which latents are dead."""
    densities = dict(zip((id(subject) for subject in subjects), setting.densities, strict=False))
    families: dict[str, list[Subject]] = {}
    for subject in subjects:
        families.setdefault(_family(subject.coder), []).append(subject)
    found: dict[str, Part] = {}
    for number, (key, members) in enumerate(families.items()):
        setting.progress("stability", number, len(families))
        if reason := _not_comparable([member.coder for member in members]):
            found[key] = Part(NAME, TITLE, absent=reason)
            continue
        known = [densities[id(member)] for member in members] if densities else None
        found[key] = compared([member.coder for member in members], known, setting)
    setting.progress("stability", len(families), len(families))
    return [found[_family(subject.coder)] for subject in subjects]


def compared(
    coders: Sequence[SparseCoder], densities: Sequence[Float[Tensor, "d_sae"]] | None, setting: Setting
) -> Part:
    """`stability` as a part of the suite; absent where a coder has no live latent."""
    try:
        return part_of(stability(coders, densities, resamples=setting.resamples, seed=setting.seed))
    except CoderError as error:
        return Part(NAME, TITLE, absent=str(error))


def part_of(record: dict[str, Any]) -> Part:
    """A record of `stability` as a part of the suite."""

    def score(key: str, label: str, meaning: str, misleads: str) -> Score:
        interval = record["intervals"][key]
        controls = {name: Estimate(values[key]) for name, values in record["controls"].items()}
        found = Estimate(record[key], None if interval is None else (interval[0], interval[1]))
        return Score(key, label, found, controls, meaning, misleads, "higher")

    return Part(
        NAME,
        TITLE,
        f"{record['coders']} coders of {record['d_sae']:,} latents, trained alike from different seeds, compared in pairs.",
        (
            score(
                "share",
                "Found again",
                f"Share of living latents whose partner in the other coder has cosine {record['threshold']} or more.",
                "Stable is not true: seeds can agree on the same mixture of features.",
            ),
            score(
                "mean_cosine",
                "Mean cosine of partners",
                "Mean decoder cosine of latents paired one to one.",
                "Chance is high where there are more latents than dimensions.",
            ),
        ),
        {
            "random": "Each coder paired with random unit directions.",
            "shuffled": "The coders' own pairs, partners shuffled.",
        },
        record,
    )


def _family(coder: SparseCoder) -> str:
    """What coders that differ in their seed only have in common."""
    places = [[part.model_dump() for part in parts] for parts in (coder.reads, coder.writes)]
    options = {key: value for key, value in coder.metadata.options.items() if key != "seed"}
    trained = [coder.metadata.trained_as or coder.architecture.name, options, coder.kind, coder.d_sae]
    training = coder.metadata.training
    own = {key: value for key, value in training.get("coder", {}).items() if key not in ("name", "seed")}
    run = {key: value for key, value in training.get("config", {}).items() if key not in ("coders", "seed")}
    return json.dumps([*trained, places, training.get("tokens"), own, run], sort_keys=True, default=str)


def _not_comparable(members: Sequence[SparseCoder]) -> str:
    """Why coders of one family have nothing to be compared in, or nothing to say."""
    if len(members) < 2:
        return "it needs another coder of the same architecture, settings, shape and place, trained from another seed"
    own = [coder.metadata.training.get("coder", {}) for coder in members]
    if any(one.get("frozen_decoder") for one in own):
        return "the decoders were kept as their seeds drew them, so agreement means nothing"
    seeds = [one["seed"] for one in own if "seed" in one]
    if len(set(seeds)) < len(seeds):
        return "two of the coders were trained from the same seed, and are the same"
    return ""


def partners(a: SparseCoder, b: SparseCoder) -> Pairing:
    """Which latent of `b` stands for which of `a`: the pairing that `stability` counts, dead latents included."""
    _refuse_other_shapes([a, b])
    return pairing(a.W_dec, b.W_dec)


class _Tally:
    """Sums over pairs of coders."""

    def __init__(self, threshold: float) -> None:
        self.threshold = threshold
        self.shares: list[float] = []
        self.cosines: list[float] = []

    def add(self, cosine: Float[Tensor, "pairs"], n_latents: int) -> None:
        """One pair of coders, of `n_latents` live latents together."""
        self.shares.append(2 * int((cosine >= self.threshold).sum()) / n_latents)
        self.cosines.append(float(cosine.double().mean()))

    @property
    def share(self) -> float:
        return sum(self.shares) / len(self.shares)

    @property
    def mean_cosine(self) -> float:
        return sum(self.cosines) / len(self.cosines)


def _live(coders: Sequence[SparseCoder], densities: Sequence[Tensor] | None) -> list[Bool[Tensor, "d_sae"]]:
    if len(coders) < 2:
        raise UsageError(f"stability compares coders of several seeds, got {len(coders)}; train at least two")
    _refuse_other_shapes(coders)
    if densities is None:
        return [torch.ones(coder.d_sae, dtype=torch.bool) for coder in coders]
    if [density.numel() for density in densities] != [coder.d_sae for coder in coders]:
        raise UsageError("stability needs one density a latent for every coder, in the order of the coders")
    live = [density.cpu() > 0 for density in densities]
    for number, kept in enumerate(live):
        if not bool(kept.any()):
            name = f" ({coders[number].metadata.name})" if coders[number].metadata.name else ""
            raise CoderError(f"coder {number}{name} has no latent that fires; there is nothing to compare")
    return live


def _refuse_other_shapes(coders: Sequence[SparseCoder]) -> None:
    shapes = list(dict.fromkeys((coder.d_sae, coder.d_out) for coder in coders))
    if len(shapes) > 1:
        raise UsageError(
            f"stability compares coders of one shape, got (d_sae, d_out) {' and '.join(map(str, shapes))}; "
            "train them alike but for the seed"
        )


def _by_latent(latent: Tensor, cosine: Float[Tensor, "pairs"], n: int) -> Float[Tensor, "n"]:
    return torch.full((n,), -1.0, dtype=torch.float64).index_copy(0, latent, cosine.double())


def _interval(
    rows: list[Float[Tensor, "others live"]], resamples: int, seed: int, *, paired_only: bool = False
) -> list[float] | None:
    """rows: of every coder, the outcome of each latent in each other coder."""
    ends = []
    for number, outcomes in enumerate(rows):
        values = outcomes.mean(0)
        if paired_only:
            paired = outcomes > -1
            values = (outcomes * paired).sum(0)[paired.any(0)] / paired.sum(0)[paired.any(0)]
        found = mean_interval(values, resamples=resamples, seed=seed + number)
        if found is None:
            return None
        ends.append(found)
    return [sum(end[side] for end in ends) / len(ends) for side in (0, 1)]
