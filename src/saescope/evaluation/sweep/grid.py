"""What a sweep trains: a cell for each combination, and how many of them at once."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from saescope.coders import architecture_type
from saescope.errors import UsageError, first_mistake
from saescope.training import TrainConfig

FROZEN_DECODER = "frozen_decoder"
# Weights, gradient and Adam's two moments, in float32.
_BYTES_A_WEIGHT = 16


@dataclass(frozen=True)
class Cell:
    """One coder of the grid. arch: an architecture, or `frozen_decoder` for the control of that name."""

    arch: str
    l0: float
    d_sae: int
    seed: int

    @property
    def name(self) -> str:
        return f"{self.arch}-l0_{self.l0:g}-d{self.d_sae}-seed{self.seed}"


class SweepConfig(BaseModel):
    """A grid and what all its cells share.

    The lists and the parts may grow from one command to the next: what is finished stays. The rest must stay as it was.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    archs: tuple[str, ...] = Field(min_length=1)
    l0s: tuple[float, ...] = Field(min_length=1)
    d_saes: tuple[int, ...] = Field(default=(9216,), min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    frozen_decoder: bool = Field(default=False, description="train the control with a random decoder as well")
    options: dict[str, dict[str, Any]] = Field(default_factory=dict, description="further options, by architecture")
    reads: tuple[str, ...] = Field(min_length=1)
    writes: tuple[str, ...] = ()
    skip: bool = False
    lr: float | None = Field(default=None, gt=0)
    run: dict[str, Any] = Field(default_factory=dict, description="settings of every training run, such as passes")
    parts: tuple[str, ...] = Field(default=(), description="parts of the suite measured beside the core")
    tokens: int | None = Field(default=65_536, gt=0)
    ce_tokens: int | None = Field(default=8_192, gt=0)
    examples: int = Field(default=1000, gt=0)

    @model_validator(mode="after")
    def _trainable(self) -> SweepConfig:
        for name in ("archs", "l0s", "d_saes", "seeds"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise UsageError(f"{name} of the sweep names something twice: {', '.join(map(str, given))}")
        self.training(self.cells())
        return self

    @staticmethod
    def from_data(**given: Any) -> SweepConfig:
        """A one-line `UsageError` about the first wrong entry."""
        try:
            return SweepConfig.model_validate(given)
        except ValidationError as error:
            raise UsageError(f"the sweep's {first_mistake(error, given=True)}") from None

    def cells(self) -> list[Cell]:
        """Every cell, seeds outermost: a sweep cut short has a whole frontier of the first seeds."""
        archs = [*self.archs, FROZEN_DECODER] if self.frozen_decoder else list(self.archs)
        grid = itertools.product(self.seeds, self.d_saes, archs, self.l0s)
        return [Cell(arch, l0, d_sae, seed) for seed, d_sae, arch, l0 in grid]

    def coder(self, cell: Cell) -> dict[str, Any]:
        """The training configuration of a cell's coder, not yet checked."""
        frozen = cell.arch == FROZEN_DECODER
        # With directions at random, the rule that chooses matters little: one control serves all architectures.
        arch = "batchtopk" if frozen else cell.arch
        wanted = int(cell.l0) if float(cell.l0).is_integer() else cell.l0
        return {
            "name": cell.name,
            "arch": arch,
            "d_sae": cell.d_sae,
            "options": {architecture_type(arch, trainable=True).l0_option: wanted} | self.options.get(arch, {}),
            "reads": self.reads,
            "writes": self.writes,
            "skip": self.skip,
            "lr": self.lr,
            "seed": cell.seed,
            "frozen_decoder": frozen,
        }

    def training(self, cells: list[Cell]) -> TrainConfig:
        """One run that trains these cells on the same batches. A one-line `UsageError` about the first wrong setting."""
        return TrainConfig.from_data(
            self.run | {"coders": [self.coder(cell) for cell in cells]}, "the sweep's settings"
        )

    def recipe(self) -> dict[str, Any]:
        """All settings of its training runs, those too that were not given: their defaults differ between versions."""
        return self.training(self.cells()[:1]).model_dump(mode="json", exclude={"coders"})

    def groups(self, cells: list[Cell], widths: dict[str, int], memory: int) -> list[list[Cell]]:
        """The cells cut into runs whose weights, gradients and moments take at most `memory` bytes together, at least one cell
        each."""
        width = sum(widths[point] for point in self.reads) + sum(widths[point] for point in self.writes or self.reads)
        found: list[list[Cell]] = []
        room = 0
        for cell in cells:
            size = _BYTES_A_WEIGHT * cell.d_sae * width
            if not found or size > room:
                found.append([])
                room = memory
            found[-1].append(cell)
            room -= size
        return found

    def shared(self) -> dict[str, Any]:
        """What may not change while a sweep grows."""
        grid = {"archs", "l0s", "d_saes", "seeds", "frozen_decoder", "parts"}
        return self.model_dump(mode="json", exclude=grid | {"run"}) | {"run": self.recipe()}
