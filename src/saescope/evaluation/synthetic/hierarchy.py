"""Who fires only when whom: the forest of features, and the rates that come of it.

Features are numbered by rank. The roots are the first; level by level every feature of the forest gets the next `branching`
features as its family. Given that its parent fires, each child is a candidate with probability c_i; in an exclusive family
one of the candidates, drawn evenly, fires, else all do. c_i is chosen so that a child's rate is what was wanted:

    exclusive:  c_i · E[1 / (1 + S_i)] = rate_i / rate_parent      S_i the number of its siblings that are candidates
    else:       c_i = rate_i / rate_parent

The expectation is a polynomial's integral, ∫₀¹ Π_{j≠i} (1 - c_j + c_j s) ds, so quadrature is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.evaluation.synthetic.config import HierarchyConfig, ZipfRates

_ITERATIONS = 4000
_CLOSE = 1e-9


@dataclass(frozen=True)
class Forest:
    """parent [n]: -1 for roots and free features. family [n]: the family a feature heads, or -1. children [families,
    branching]: -1 pads an unfinished last family. exclusive [families]. rate [n]: expected firing rate where features are
    uncorrelated. candidate [n]: the probability of being a candidate given that the parent fires (a root's: its rate)."""

    parent: Int[Tensor, "n"]
    family: Int[Tensor, "n"]
    children: Int[Tensor, "families branching"]
    exclusive: Bool[Tensor, "families"]
    rate: Float[Tensor, "n"]
    candidate: Float[Tensor, "n"]

    @property
    def top(self) -> Int[Tensor, "tops"]:
        """Features that need no other: roots and free ones."""
        return (self.parent < 0).nonzero()[:, 0]

    def to(self, device: torch.device | str) -> Forest:
        return Forest(
            self.parent.to(device), self.family.to(device), self.children.to(device), self.exclusive.to(device),
            self.rate.to(device), self.candidate.to(device),
        )  # fmt: skip


def wanted_rates(config: ZipfRates, n: int) -> Float[Tensor, "n"]:
    """Rates by rank, descending; float64. See `ZipfRates`."""
    ranks = torch.arange(1, n + 1, dtype=torch.float64) ** -config.exponent
    span = float(ranks[0] - ranks[-1])
    falling = (ranks - ranks[-1]) / span if span > 0 else torch.ones_like(ranks)
    return config.lowest + (config.highest - config.lowest) * falling


def forest(
    config: HierarchyConfig | None, wanted: Float[Tensor, "n"], generator: torch.Generator | None = None
) -> Forest:
    """The forest over features of these wanted rates; without a configuration all are free. `generator` draws which
    families are exclusive."""
    n = wanted.numel()
    parent, family = np.full(n, -1), np.full(n, -1)
    rate, candidate = wanted.double().numpy().copy(), wanted.double().numpy().copy()
    branching = config.branching if config else 1
    families: list[np.ndarray] = []
    exclusive: list[bool] = []
    level = np.arange(config.roots if config else 0)
    following = len(level)
    for _ in range(config.depth if config else 0):
        assert config is not None
        heads = level[: -(-max(0, n - following) // branching)]
        if not len(heads):
            break
        children = following + np.arange(len(heads) * branching).reshape(len(heads), branching)
        following += int((children < n).sum())
        children[children >= n] = -1
        chosen = (torch.rand(len(heads), generator=generator) < config.exclusive).numpy()
        family[heads] = len(families) + np.arange(len(heads))
        present = children >= 0
        parent[children[present]] = np.repeat(heads, branching)[present.ravel()]
        share = _shares(rate[heads], np.where(present, rate[children], 0.0), chosen, config.fullness)
        rate[children[present]] = (share * rate[heads][:, None])[present]
        candidate[children[present]] = np.where(chosen[:, None], _candidates(share), share)[present]
        families.extend(children)
        exclusive.extend(chosen.tolist())
        level = children[present]
    members = np.array(families) if families else np.zeros((0, branching))
    return Forest(
        torch.from_numpy(parent),
        torch.from_numpy(family),
        torch.from_numpy(members.astype(np.int64)),
        torch.tensor(exclusive, dtype=torch.bool),
        torch.from_numpy(rate),
        torch.from_numpy(candidate),
    )


def _shares(head_rate: np.ndarray, rate: np.ndarray, exclusive: np.ndarray, fullness: float) -> np.ndarray:
    """[families, branching]: of its parent's firings, those that each child shall have."""
    share = rate / head_rate[:, None]
    total = share.sum(1, keepdims=True)
    together = share * np.minimum(1.0, fullness / np.maximum(total, 1e-300))
    shares: np.ndarray = np.where(exclusive[:, None], together, np.minimum(share, fullness))
    return shares


def _candidates(share: np.ndarray) -> np.ndarray:
    """c with c_i · E[1 / (1 + S_i)] = share_i, by iteration from below; shares of a family sum to less than one."""
    nodes, weights = np.polynomial.legendre.leggauss(share.shape[1] // 2 + 1)
    s, w = (nodes + 1) / 2, weights / 2
    c = share.copy()
    for _ in range(_ITERATIONS):
        factors = 1 - c[:, :, None] * (1 - s)
        others = factors.prod(1, keepdims=True) / factors
        following = np.minimum(share / (others @ w), 1.0)
        change = float(np.abs(following - c).max(initial=0.0))
        c = following
        if change < _CLOSE:
            break
    return c
