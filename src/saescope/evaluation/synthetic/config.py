"""What a synthetic set of activations is made of, as typed data, and the presets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from saescope.errors import UsageError, first_mistake, nearest


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ZipfRates(_Part):
    """Wanted firing rates by rank r = 1 … n: `lowest + (highest - lowest) · z(r)` with z(r) = r^-exponent moved and scaled
    to run from 1 to 0. Exponent 0 with highest = lowest gives every feature the same rate."""

    exponent: float = Field(default=0.5, ge=0)
    highest: float = Field(default=0.4, gt=0, lt=1)
    lowest: float = Field(default=5e-4, gt=0, lt=1)

    @model_validator(mode="after")
    def _ordered(self) -> ZipfRates:
        if self.lowest > self.highest:
            raise UsageError(f"rates: lowest {self.lowest} is more than highest {self.highest}")
        return self


class HierarchyConfig(_Part):
    """A forest over the most frequent features, filled in order of rank, level by level; the other features are free.

    A child fires only when its parent does. `exclusive` of the families have at most one child at a time. `fullness` is
    the largest share of its parent's firings that an exclusive family (or any one child) may take: where the wanted rates
    ask for more, the family's are lowered together.
    """

    roots: int = Field(gt=0)
    branching: int = Field(default=4, ge=2)
    depth: int = Field(default=3, ge=1, description="levels below the roots")
    exclusive: float = Field(default=1.0, ge=0, le=1)
    fullness: float = Field(default=0.97, gt=0, lt=1)


class CorrelationConfig(_Part):
    """Gaussian copula with `rank` common factors: feature i's Gaussian has loadings drawn from N(0, scale²) on them, so that
    two features' Gaussians correlate by about scale²·√rank (standard deviation over pairs)."""

    rank: int = Field(default=25, gt=0)
    scale: float = Field(default=0.1, ge=0)


class MagnitudeConfig(_Part):
    """How strongly a feature fires when it does.

    `normal`: N(mean, spread²) cut at zero; the mean runs linearly with the rank from `mean` to `mean_last`, the spread is
    |N(spread, spread_std²)|, drawn once a feature. `uniform`: uniform on [0, 2·mean), as in the toy model.
    """

    kind: Literal["normal", "uniform"] = "normal"
    mean: float = Field(default=5.0, gt=0)
    mean_last: float | None = Field(default=None, gt=0, description="default: the same as mean")
    spread: float = Field(default=0.5, ge=0)
    spread_std: float = Field(default=0.0, ge=0)


class ToyConfig(_Part):
    """Directions learnt by the toy model of superposition instead of drawn; see `toy`."""

    steps: int = Field(default=2000, gt=0)
    batch_size: int = Field(default=1024, gt=0)
    lr: float = Field(default=1e-2, gt=0)
    importance_decay: float = Field(
        default=1.0, gt=0, le=1, description="feature i counts decay^i in the toy model's loss"
    )


class SyntheticConfig(_Part):
    """Known features in d_in dimensions. `seed` settles directions, loadings and magnitudes, not which rows are drawn."""

    n_features: int = Field(gt=1)
    d_in: int = Field(gt=0)
    seed: int = Field(default=0, ge=0)
    rates: ZipfRates = ZipfRates()
    magnitude: MagnitudeConfig = MagnitudeConfig()
    hierarchy: HierarchyConfig | None = None
    correlation: CorrelationConfig | None = None
    toy: ToyConfig | None = None
    spreading: int = Field(
        default=20, ge=0, description="most steps that make random directions nearly orthogonal; 0 leaves them random"
    )
    noise: float = Field(default=0.0, ge=0, description="standard deviation added to every dimension")
    bias: float = Field(default=0.0, ge=0, description="norm of a constant offset")

    @model_validator(mode="after")
    def _possible(self) -> SyntheticConfig:
        if self.hierarchy is not None and self.hierarchy.roots > self.n_features:
            raise UsageError(f"hierarchy: {self.hierarchy.roots} roots are more than {self.n_features} features")
        if self.toy is not None and (self.hierarchy is not None or self.correlation is not None):
            raise UsageError("the toy model of superposition has independent features: no hierarchy, no correlation")
        return self

    @staticmethod
    def from_data(data: Any, where: str = "the synthetic configuration") -> SyntheticConfig:
        """Checked configuration from parsed JSON or YAML; a one-line `UsageError` about the first wrong entry."""
        try:
            return SyntheticConfig.model_validate(data)
        except ValidationError as error:
            raise UsageError(f"{where}, {first_mistake(error)}") from None


# Facts of SynthSAEBench-16k (Chanin & Garriga-Alonso, 2026): features, width, rates, hierarchy, correlation, magnitudes and a
# mean of about 34 features a row. `fullness` is what gives that mean here, `bias` its library's default.
_BENCH: dict[str, Any] = {
    "magnitude": MagnitudeConfig(mean=5.0, mean_last=4.0, spread=0.5, spread_std=0.5),
    "correlation": CorrelationConfig(rank=25, scale=0.1),
    "bias": 1.0,
}


@dataclass(frozen=True)
class Preset:
    """A configuration with the coder's size and L0 that go with it. SynthSAEBench-16k's: a quarter as many latents as
    features, and an L0 of 25, three quarters of the truth's."""

    config: SyntheticConfig
    d_sae: int
    l0: float


PRESETS: dict[str, Preset] = {
    "toy": Preset(
        SyntheticConfig(
            n_features=64,
            d_in=16,
            rates=ZipfRates(exponent=0, highest=0.02, lowest=0.02),
            magnitude=MagnitudeConfig(kind="uniform", mean=0.5),
            toy=ToyConfig(),
        ),
        d_sae=64,
        l0=1,
    ),
    "small": Preset(
        SyntheticConfig(
            n_features=1024,
            d_in=128,
            rates=ZipfRates(exponent=0.5, highest=0.4, lowest=2e-3),
            hierarchy=HierarchyConfig(roots=16, branching=4, depth=2),
            **_BENCH,
        ),
        d_sae=256,
        l0=8,
    ),
    "16k": Preset(
        SyntheticConfig(
            n_features=16384,
            d_in=768,
            rates=ZipfRates(exponent=0.5, highest=0.4, lowest=5e-4),
            hierarchy=HierarchyConfig(roots=128, branching=4, depth=3),
            **_BENCH,
        ),
        d_sae=4096,
        l0=25,
    ),
}


def preset(name: str) -> Preset:
    """A named preset, or a `UsageError` that lists them."""
    if name not in PRESETS:
        raise UsageError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}{nearest(name, PRESETS)}")
    return PRESETS[name]
