"""Activations whose features are known:  x = Σ_i a_i d_i + b + noise,  a_i >= 0 the activation of feature i.

Which features fire follows from Gaussians with common factors (a Gaussian copula): feature i is a candidate where
z_i = l_i·ε + √(1 - ‖l_i‖²)·η_i exceeds the quantile of its candidate probability, with ε shared by a row's features. Parents
come before children, so only the families of features that fire are looked at.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.coders import Codes
from saescope.evaluation.seeding import DIRECTIONS, FAMILIES, LOADINGS, MAGNITUDES, OFFSET, seeded
from saescope.evaluation.synthetic.config import MagnitudeConfig, SyntheticConfig
from saescope.evaluation.synthetic.directions import random_directions, spread_out
from saescope.evaluation.synthetic.hierarchy import Forest, forest, wanted_rates
from saescope.evaluation.synthetic.toy import toy_directions
from saescope.kernels import Support, decode_from

# Gaussians drawn at a time, in elements.
_CHUNK_ELEMENTS = 2**23
# Loadings never explain more of a feature's Gaussian than this.
_MOST_COMMON = 0.99


@dataclass(frozen=True)
class Sample:
    """x [tokens, d_in] and the feature activations that made it, as `Codes` over features."""

    x: Float[Tensor, "tokens d_in"]
    features: Codes


@dataclass(frozen=True)
class GroundTruth:
    """Known features: unit directions [n, d_in], who fires with whom, how strongly.

    scale [n]: what a feature's magnitudes are multiplied by (the toy model's lengths). loadings [n, rank] on common factors.
    """

    config: SyntheticConfig
    directions: Float[Tensor, "n d_in"]
    forest: Forest
    loadings: Float[Tensor, "n rank"]
    mean: Float[Tensor, "n"]
    spread: Float[Tensor, "n"]
    scale: Float[Tensor, "n"]
    offset: Float[Tensor, "d_in"]

    @classmethod
    def of(cls, config: SyntheticConfig, device: torch.device | str = "cpu") -> GroundTruth:
        """Made from the configuration and its seed alone; the same on every device."""
        n, d = config.n_features, config.d_in
        wanted = wanted_rates(config.rates, n)
        scale = torch.ones(n, dtype=torch.float64)
        if config.toy is not None:
            directions, scale = toy_directions(config)
            wanted, n = wanted[: len(scale)], len(scale)
        else:
            drawn = random_directions(n, d, seeded(DIRECTIONS, config.seed))
            directions = spread_out(drawn, config.spreading) if config.spreading else drawn
        mean, spread = _magnitudes(config.magnitude, n, seeded(MAGNITUDES, config.seed))
        offset = random_directions(1, d, seeded(OFFSET, config.seed))[0] * config.bias
        made = cls(
            config=config,
            directions=directions.float(),
            forest=forest(config.hierarchy, wanted, seeded(FAMILIES, config.seed)),
            loadings=_loadings(config, n).float(),
            mean=mean.float(),
            spread=spread.float(),
            scale=scale.float(),
            offset=offset.float(),
        )
        return made.to(device)

    @property
    def n_features(self) -> int:
        return self.directions.shape[0]

    @property
    def device(self) -> torch.device:
        return self.directions.device

    def to(self, device: torch.device | str) -> GroundTruth:
        names = ("directions", "loadings", "mean", "spread", "scale", "offset")
        moved = {name: getattr(self, name).to(device) for name in names}
        return replace(self, forest=self.forest.to(device), **moved)

    @torch.no_grad()
    def sample(self, n_tokens: int, generator: torch.Generator) -> Sample:
        """That many rows. `generator` must be on this device; the same state gives the same rows."""
        size = max(1, _CHUNK_ELEMENTS // max(1, self.forest.top.numel()))
        parts = [
            self._activations(min(size, n_tokens - start), generator) for start in range(0, max(n_tokens, 1), size)
        ]
        features = parts[0] if len(parts) == 1 else _joined(parts)
        x = decode_from(features.support, features.values, self.directions) + self.offset
        if self.config.noise:
            x += self.config.noise * torch.randn(x.shape, generator=generator, device=self.device)
        return Sample(x, features)

    def samples(self, n_tokens: int, batch_size: int, *key: int) -> Iterator[Sample]:
        """`n_tokens` rows in batches, of the random stream that `key` names."""
        generator = seeded(*key, device=self.device)
        for start in range(0, n_tokens, batch_size):
            yield self.sample(min(batch_size, n_tokens - start), generator)

    def _activations(self, n_tokens: int, generator: torch.Generator) -> Codes:
        common = torch.randn(n_tokens, self.loadings.shape[1], generator=generator, device=self.device)
        top = self.forest.top
        z = torch.randn(n_tokens, top.numel(), generator=generator, device=self.device)
        z *= self._own[top]
        z.addmm_(common, self.loadings[top].T)
        rows, place = (z > self._quantile[top]).nonzero(as_tuple=True)
        firing = [(rows, top[place])]
        while len(firing[-1][0]):
            firing.append(self._children(*firing[-1], common, generator))
        rows, features = (torch.cat(part) for part in zip(*firing, strict=True))
        # Ascending within a row, as codes are.
        position, _ = (rows * self.n_features + features).sort()
        features = position % self.n_features
        values = self._values(features, generator)
        support = Support.from_flat(position, n_tokens, self.n_features)
        return Codes(support, values).without_zeros()

    def _children(
        self, rows: Int[Tensor, "p"], features: Int[Tensor, "p"], common: Tensor, generator: torch.Generator
    ) -> tuple[Int[Tensor, "c"], Int[Tensor, "c"]]:
        """Of features that fire (`features[p]` in `rows[p]`), the children that fire."""
        heads = self.forest.family[features] >= 0
        rows, family = rows[heads], self.forest.family[features[heads]]
        children = self.forest.children[family]
        real = children >= 0
        child = children.clamp(min=0)
        z = torch.randn(child.shape, generator=generator, device=self.device) * self._own[child]
        z += torch.einsum("pr,pbr->pb", common[rows], self.loadings[child])
        candidates = real & (z > self._quantile[child])
        draw = torch.rand(child.shape, generator=generator, device=self.device)
        winner = torch.where(candidates, draw, -1.0).argmax(1, keepdim=True)
        alone = torch.zeros_like(candidates).scatter_(1, winner, True)
        fires = candidates & (alone | ~self.forest.exclusive[family][:, None])
        place, which = fires.nonzero(as_tuple=True)
        return rows[place], child[place, which]

    def _values(self, features: Int[Tensor, "nnz"], generator: torch.Generator) -> Float[Tensor, "nnz"]:
        if self.config.magnitude.kind == "uniform":
            drawn = 2 * self.mean[features] * torch.rand(features.shape, generator=generator, device=self.device)
        else:
            normal = torch.randn(features.shape, generator=generator, device=self.device)
            drawn = (self.mean[features] + self.spread[features] * normal).relu()
        return drawn * self.scale[features]

    @cached_property
    def _own(self) -> Float[Tensor, "n"]:
        """The part of a feature's Gaussian that is its own."""
        return (1 - self.loadings.square().sum(1)).sqrt()

    @cached_property
    def _quantile(self) -> Float[Tensor, "n"]:
        """What the Gaussian of a candidate exceeds; minus infinity where it always is one."""
        return (2**0.5 * torch.erfinv(1 - 2 * self.forest.candidate)).float()


def _magnitudes(
    config: MagnitudeConfig, n: int, generator: torch.Generator
) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
    mean = torch.linspace(config.mean, config.mean_last or config.mean, n, dtype=torch.float64)
    drawn = torch.randn(n, generator=generator, dtype=torch.float64)
    return mean, (config.spread + config.spread_std * drawn).abs()


def _loadings(config: SyntheticConfig, n: int) -> Float[Tensor, "n rank"]:
    if config.correlation is None:
        return torch.zeros(n, 1, dtype=torch.float64)
    generator = seeded(LOADINGS, config.seed)
    drawn = torch.randn(n, config.correlation.rank, generator=generator, dtype=torch.float64)
    drawn *= config.correlation.scale
    explained = drawn.square().sum(1, keepdim=True)
    return drawn * (_MOST_COMMON / explained.clamp(min=_MOST_COMMON)).sqrt()


def _joined(parts: list[Codes]) -> Codes:
    rows, start = [], 0
    for part in parts:
        rows.append(part.rows() + start)
        start += part.n_tokens
    indices = torch.cat([part.indices for part in parts])
    support = Support.from_rows(torch.cat(rows), indices, start, parts[0].d_sae)
    return Codes(support, torch.cat([part.values for part in parts]))
