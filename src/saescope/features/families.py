"""Families of features, and which finer features a coarse one of a Matryoshka coder splits into.

A family is a group of features that mostly fire together or write nearly the same. Two features are tied by the larger of phi
(the correlation of firing with firing) and the cosine of their decoder rows. Groups grow by average linkage (Sokal & Michener,
1958): the two whose members are tied most strongly on average join, until no average reaches `LEAST_TIE`. A pair that is in
neither's list counts as untied, so a chain of neighbours is no family, and none grows far beyond the length of the lists.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

LEAST_TIE = 0.25
"""Mean tie within a family. Random directions of 576 dimensions have a nearest of 10,000 at a cosine of 0.17."""
MOST_MEMBERS = 64

SPLIT_SHARE = 0.5
"""A finer feature belongs to a coarse one that fires on at least this share of its tokens, P(coarse | fine)."""
SPLIT_LIFT = 3.0
"""And that fires there so many times as often as anywhere: a dense feature accompanies everything."""
SPLIT_COSINE = 0.1
"""And that writes in about the same direction: with less, one only happens to fire with the other."""


def families(
    coactive: NDArray[Any],
    coactive_phi: NDArray[Any],
    nearest: NDArray[Any],
    nearest_cosine: NDArray[Any],
    *,
    least: float = LEAST_TIE,
    most: int = MOST_MEMBERS,
) -> NDArray[np.int32]:
    """The family of each feature, [d_sae]: numbered from 0 by their lowest members; -1 for a feature that has none.

    coactive, nearest int [d_sae, k] (-1 where there are fewer), with their phi and cosine. The same for the same arrays.
    """
    n = len(coactive)
    ties = _ties([(coactive, coactive_phi), (nearest, nearest_cosine)], least)
    members = _agglomerated(ties, n, least, most)
    family = np.full(n, -1, np.int32)
    groups = sorted((sorted(group) for group in members if len(group) > 1), key=lambda group: group[0])
    for number, group in enumerate(groups):
        family[group] = number
    return family


def _ties(lists: list[tuple[NDArray[Any], NDArray[Any]]], least: float) -> dict[tuple[int, int], float]:
    """The strongest tie of each pair that is in some list; weaker ones than `least` are left out, for they start nothing."""
    ties: dict[tuple[int, int], float] = {}
    for partners, strengths in lists:
        one, place = np.nonzero((np.asarray(partners) >= 0) & (np.asarray(strengths) >= least))
        other, strength = np.asarray(partners)[one, place], np.asarray(strengths)[one, place]
        for a, b, s in zip(one.tolist(), other.tolist(), strength.tolist(), strict=True):
            if a != b:
                pair = (a, b) if a < b else (b, a)
                ties[pair] = max(ties.get(pair, 0.0), s)
    return ties


def _agglomerated(ties: dict[tuple[int, int], float], n: int, least: float, most: int) -> list[list[int]]:
    members: dict[int, list[int]] = {feature: [feature] for pair in ties for feature in pair}
    # Between groups: the sum of their members' ties.
    tied: dict[int, dict[int, float]] = {feature: {} for feature in members}
    for (a, b), strength in ties.items():
        tied[a][b] = tied[b][a] = strength
    queue = [(-strength, a, b) for (a, b), strength in ties.items()]
    heapq.heapify(queue)
    fresh = n
    while queue:
        _, a, b = heapq.heappop(queue)
        # A group that has joined another goes by a new number.
        if a not in members or b not in members or len(members[a]) + len(members[b]) > most:
            continue
        joined, others = members.pop(a) + members.pop(b), tied.pop(a)
        for other, total in tied.pop(b).items():
            others[other] = others.get(other, 0.0) + total
        others = {other: total for other, total in others.items() if other in members}
        members[fresh], tied[fresh] = joined, others
        for other, total in others.items():
            tied[other].pop(a, None)
            tied[other].pop(b, None)
            tied[other][fresh] = total
            mean = total / (len(joined) * len(members[other]))
            if mean >= least:
                heapq.heappush(queue, (-mean, other, fresh))
        fresh += 1
    return list(members.values())


def latent_levels(levels: list[int], d_sae: int) -> NDArray[np.int16]:
    """The level of each latent, [d_sae], 0 the coarsest. levels: cumulative counts of latents (`SparseCoder.metadata.levels`);
    a coder that has none is all of one level."""
    return np.searchsorted(np.asarray(levels or [d_sae]), np.arange(d_sae), side="right").astype(np.int16)


@dataclass(frozen=True)
class Splits:
    """Which finer features a coarse one splits into: coarse, fine int32 [n]; share, cosine float32 [n], of the decoder rows.
    By coarse feature, the largest share first. A fine feature may be of several coarse ones."""

    coarse: NDArray[np.int32]
    fine: NDArray[np.int32]
    share: NDArray[np.float32]
    cosine: NDArray[np.float32]

    @classmethod
    def none(cls) -> Splits:
        """No pairs at all."""
        whole, share = np.zeros(0, np.int32), np.zeros(0, np.float32)
        return cls(whole, whole, share, share)

    def into(self, feature: int) -> list[tuple[int, float]]:
        """The finer features that `feature` splits into, with P(feature | finer)."""
        here = self.coarse == feature
        return list(zip(self.fine[here].tolist(), self.share[here].tolist(), strict=True))

    def of(self, feature: int) -> list[tuple[int, float]]:
        """The coarser features that `feature` is a part of, with P(coarser | feature), the largest first."""
        here = np.flatnonzero(self.fine == feature)
        here = here[np.argsort(-self.share[here], kind="stable")]
        return list(zip(self.coarse[here].tolist(), self.share[here].tolist(), strict=True))


@torch.no_grad()
def splits(
    level: NDArray[np.int16],
    coactive: NDArray[Any],
    coactive_count: NDArray[Any],
    count: NDArray[Any],
    n_tokens: int,
    W_dec: Float[Tensor, "d_sae d_out"],
) -> Splits:
    """Pairs of a coarser and a finer level where the finer feature fires mostly on tokens of the coarser one.

    coactive int [d_sae, k] with the number of tokens on which both fire; count [d_sae] of n_tokens. A pair counts when either
    has the other in its list.
    """
    one, place = np.nonzero(np.asarray(coactive) >= 0)
    other = np.asarray(coactive)[one, place].astype(np.int64)
    together = np.asarray(coactive_count)[one, place].astype(np.float64)
    above = level[one] < level[other]
    below = level[one] > level[other]
    coarse = np.concatenate([one[above], other[below]])
    fine = np.concatenate([other[above], one[below]])
    together = np.concatenate([together[above], together[below]])
    # A pair in both lists may have two estimates of one number.
    order = np.lexsort((-together, fine, coarse))
    coarse, fine, together = coarse[order], fine[order], together[order]
    first = np.append(True, (coarse[1:] != coarse[:-1]) | (fine[1:] != fine[:-1])) if len(coarse) else np.zeros(0, bool)
    coarse, fine, together = coarse[first], fine[first], together[first]
    counts = np.asarray(count)
    share = np.minimum(1.0, together / np.maximum(counts[fine], 1))
    lift = share / np.maximum(counts[coarse] / max(n_tokens, 1), 1e-12)
    rows = W_dec.float()
    unit = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-30)
    pairs = (torch.from_numpy(coarse).to(unit.device), torch.from_numpy(fine).to(unit.device))
    cosine = (unit[pairs[0]] * unit[pairs[1]]).sum(1).cpu().numpy()
    good = np.flatnonzero((share >= SPLIT_SHARE) & (lift >= SPLIT_LIFT) & (cosine >= SPLIT_COSINE))
    good = good[np.lexsort((fine[good], -share[good], coarse[good]))]
    return Splits(
        coarse[good].astype(np.int32),
        fine[good].astype(np.int32),
        share[good].astype(np.float32),
        cosine[good].astype(np.float32),
    )
