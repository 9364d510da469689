"""What a training run is, as typed data that reads from and writes to YAML."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from saescope.coders import make_architecture
from saescope.errors import UsageError, first_mistake, nearest


class CoderConfig(BaseModel):
    """One coder of a run."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str = Field(description="folder name under RUN/coders; unique within the run")
    arch: str = "batchtopk"
    d_sae: int = Field(default=9216, gt=0)
    options: dict[str, Any] = Field(default_factory=dict, description="the architecture's own, such as k")
    reads: tuple[str, ...] = Field(description="hook points of the store that it reads")
    writes: tuple[str, ...] = Field(default=(), description="hook points it writes; empty means what it reads (an SAE)")
    skip: bool = Field(default=False, description="a linear skip connection (skip transcoder)")
    frozen_decoder: bool = Field(
        default=False, description="keep the random decoder and train the rest: a control, not a way to train"
    )
    lr: float | None = Field(default=None, gt=0, description="peak learning rate; default: `defaults.peak_lr`")
    seed: int = Field(default=0, ge=0, lt=2**32, description="of the first weights")
    init: str | None = Field(default=None, description="folder of a saved coder to start from (warm start)")
    resample: tuple[float, ...] = Field(
        default=(), description="parts of the run after which dead latents are started again (Bricken et al., 2023)"
    )

    @model_validator(mode="after")
    def _possible(self) -> CoderConfig:
        make_architecture(self.arch, self.d_sae, self.options).check()
        if not self.name or self.name.startswith(".") or any(sign in self.name for sign in "/\\:\0"):
            raise UsageError(
                f"coder name {self.name!r} becomes a folder's name: give one without / \\ : and no dot in front"
            )
        if any(not 0 < part < 1 for part in self.resample):
            raise UsageError(
                f"coder {self.name!r}: resample takes parts of the run between 0 and 1, got {self.resample}"
            )
        if self.frozen_decoder and (self.resample or self.init):
            raise UsageError(f"coder {self.name!r}: a frozen decoder is random; leave resample and init out")
        if not self.reads:
            raise UsageError(f"coder {self.name!r} reads no hook point; give it one")
        both = [point for point in self.writes_to if point in self.reads]
        if self.skip and both:
            raise UsageError(
                f"coder {self.name!r} reads and writes {both[0]}, which a skip connection would only copy; "
                "write another point (--writes), or leave skip out"
            )
        return self

    @property
    def writes_to(self) -> tuple[str, ...]:
        return self.writes or self.reads


class TrainConfig(BaseModel):
    """A run: coders trained together on the same batches, and how. Fractions are of the run's optimiser steps."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    coders: tuple[CoderConfig, ...]
    batch_size: int = Field(default=4096, gt=0, description="tokens per step")
    passes: float = Field(default=1, gt=0, description="passes over the training rows")
    seed: int = Field(default=0, ge=0, lt=2**32, description="order of the batches")
    warmup: float = Field(default=0.05, ge=0, le=1, description="linear rise of the learning rate")
    decay: float = Field(default=0.2, ge=0, le=1, description="linear fall to zero at the end")
    betas: tuple[float, float] = Field(default=(0.7, 0.999), description="Adam's, of gradients and of their squares")
    eps: float = Field(default=1e-8, gt=0)
    clip: float = Field(default=1.0, gt=0, description="largest gradient norm of a coder")
    tied: float = Field(
        default=0.7,
        ge=0,
        le=1,
        description="share of a decoder row's moves that an SAE's encoder row makes too; 0 = none",
    )
    aux_coefficient: float = Field(
        default=1 / 4, ge=0, description="weight of AuxK, which revives dead latents; 0 = off"
    )
    aux_k: int | None = Field(default=None, gt=0, description="latents AuxK chooses per token; default d_in / 2")
    aux_share: float = Field(default=0.25, gt=0, le=1, description="share of a batch's tokens that AuxK is computed on")
    dead_after: float = Field(
        default=0.1,
        gt=0,
        le=1,
        description="a latent is dead when silent for this part of the run (10 M tokens at most)",
    )
    selection: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="precision in which latents are chosen; values are float32 always"
    )
    calibration_tokens: int = Field(
        default=2**16,
        gt=0,
        description="rows that settle L0 at the end: held-out ones where there are 2,048, else training rows",
    )
    log_every: float = Field(default=0.01, gt=0, le=1, description="metrics line every this part of the run")
    held_out_every: float = Field(default=0.1, gt=0, le=1, description="held-out loss, L0, FVU every this part")
    held_out_tokens: int = Field(default=8192, ge=0, description="rows of held-out documents for it; 0 = none")
    checkpoint_every: float = Field(default=0.1, gt=0, le=1)
    deterministic: bool = Field(default=False, description="bit-exact on CUDA too, slower; on CPU it always is")

    @model_validator(mode="after")
    def _distinct(self) -> TrainConfig:
        names = [coder.name for coder in self.coders]
        if not names:
            raise UsageError("a run needs at least one coder")
        double = sorted({name for name in names if names.count(name) > 1})
        if double:
            raise UsageError(f"coder names must differ, {', '.join(double)} occurs twice")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas must be at least 0 and less than 1, got {self.betas}")
        if self.warmup + self.decay > 1:
            raise UsageError(f"warmup {self.warmup} and decay {self.decay} together are more than the whole run")
        return self

    @property
    def points(self) -> tuple[str, ...]:
        """Every hook point that some coder reads or writes, once each, in order of mention."""
        return tuple(dict.fromkeys(point for coder in self.coders for point in (*coder.reads, *coder.writes_to)))

    def every(self, fraction: float, n_steps: int) -> int:
        """A fraction of the run as a number of steps, at least one."""
        return max(1, round(fraction * n_steps))

    def to_yaml(self) -> str:
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
        return text

    @staticmethod
    def from_data(data: Any, where: str = "the configuration") -> TrainConfig:
        """Checked configuration from parsed YAML or JSON. One-line `UsageError` about the first wrong entry."""
        if not isinstance(data, dict):
            raise UsageError(f"{where} must be a mapping of options, got {type(data).__name__}")
        try:
            return TrainConfig.model_validate(data)
        except ValidationError as error:
            first = error.errors()[0]
            hint = _hint(first["loc"]) if first["type"] == "extra_forbidden" else ""
            raise UsageError(f"{where}, {first_mistake(error)}{hint}") from None

    @staticmethod
    def from_yaml(path: str | Path) -> TrainConfig:
        """Read a run's configuration. Raises `UsageError` when the file is missing or wrong."""
        try:
            data = yaml.safe_load(Path(path).read_text())
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        return TrainConfig.from_data(data, str(path))


# Settings that only a coder has, and that can be the same for all coders of a run.
FOR_EVERY_CODER = CoderConfig.model_fields.keys() - TrainConfig.model_fields.keys()
FOR_EVERY_CODER -= {"name", "arch", "reads", "writes", "options"}


def _hint(place: tuple[int | str, ...]) -> str:
    """What may have been meant by the unknown name at `place`."""
    *above, name = map(str, place)
    if above:
        return nearest(name, CoderConfig.model_fields)
    if name in CoderConfig.model_fields:
        return "; it is a setting of a coder, under coders:"
    return nearest(name, TrainConfig.model_fields.keys() | FOR_EVERY_CODER)
