"""What differs between sparse coders, and the register of those that exist.

An architecture says how latents are chosen (in training, and at inference) and what its training reconstructs or adds to
the loss. Weights, storage, training loop, kernels and metrics are the same for all. To add one: a file in
`architectures/` with a class that derives from `Architecture`, decorated with `@register`, and a row in the docs.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from saescope.coders.codes import Codes
from saescope.errors import UsageError, nearest
from saescope.kernels import Support

if TYPE_CHECKING:
    from saescope.coders.coder import SparseCoder


class Options(BaseModel):
    """An architecture's own hyperparameters."""

    model_config = ConfigDict(frozen=True, extra="forbid")


@dataclass(frozen=True)
class TrainingPass:
    """One batch through a coder in training.

    codes: the chosen latents, their values carrying gradient.
    rest [d_out] or [tokens, d_out]: what is added to what they decode to.
    penalty: added to the loss as it is, or None.
    by_level: the codes' support cut into `n_levels` rows a token: level l reconstructs from the first l of them, and the loss
    is the mean over levels. The last level is the coder's output. Most have one level, the support as it is.
    """

    codes: Codes
    rest: Float[Tensor, "*tokens d_out"]
    penalty: Float[Tensor, ""] | None = None
    by_level: Support | None = None
    n_levels: int = 1

    @property
    def l0(self) -> Float[Tensor, ""]:
        """Mean number of active latents per token; entries chosen at value zero do not count."""
        return (self.codes.values > 0).sum() / max(1, self.codes.n_tokens)


class Architecture(ABC):
    """How codes are chosen and what is added to the loss.

    name: as users type it and as `saescope.json` records it. inference: the name of the architecture that a trained
    coder is folded to for use (its own, or `jumprelu` where only a threshold remains). l0_option: which option holds the
    wanted L0: `k` where it is chosen, `l0` where training is steered to it. ranks: whether latents compete with
    one another at inference, so that their values must not be rescaled one by one. trainable: whether saescope trains
    it, or only runs what other tools have trained. file_names: names in SAELens's files where they differ from ours.
    not_filed: the common weights that its files do not hold. fast: parameters that learn faster than the weights, and how
    many times.
    """

    name: ClassVar[str]
    inference: ClassVar[str]
    l0_option: ClassVar[str] = "k"
    ranks: ClassVar[bool] = False
    trainable: ClassVar[bool] = True
    file_names: ClassVar[dict[str, str]] = {}
    not_filed: ClassVar[tuple[str, ...]] = ()
    fast: ClassVar[dict[str, float]] = {}
    options_type: ClassVar[type[Options]] = Options

    def __init__(self, options: Options, d_sae: int) -> None:
        self.options = options
        self.d_sae = d_sae

    @property
    def wanted_l0(self) -> float:
        """The mean number of active latents that was asked for."""
        return float(getattr(self.options, self.l0_option))

    def check(self) -> None:
        """Refuse to train with options that cannot work at this d_sae, with `UsageError`."""
        self.refuse_training()
        if self.wanted_l0 > self.d_sae:
            raise UsageError(
                f"{self.l0_option} = {self.wanted_l0:g} is more than the {self.d_sae} latents of d_sae; "
                f"choose {self.l0_option} <= d_sae"
            )

    @classmethod
    def refuse_training(cls) -> None:
        """UsageError where this architecture is only run."""
        if not cls.trainable:
            trained = ", ".join(architecture_names(trainable=True))
            raise UsageError(f"{cls.name} is read and run, not trained; saescope trains {trained}")

    def extra_parameters(self) -> dict[str, Tensor]:
        """Trained tensors beyond the common weights, by name, at their initial values."""
        return {}

    def extra_tensors(self) -> dict[str, Tensor]:
        """State beyond the weights that training keeps and the files may hold, by name, at its initial value."""
        return {}

    def restart(  # noqa: B027
        self, coder: SparseCoder, latents: Int[Tensor, "n"], living: Bool[Tensor, "d_sae"], share: float
    ) -> None:
        """Set the extra parameters of `latents` whose encoder rows start again at `share` of the `living` ones' length."""

    def prepare(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"], *, warm: bool) -> None:  # noqa: B027
        """Set what should follow from data before the first step. `warm`: the weights come from a trained coder."""

    @abstractmethod
    def encode(self, coder: SparseCoder, x: Float[Tensor, "tokens d_in"]) -> Codes:
        """Codes at inference, each token by itself. `x` is in the coder's dtype and width."""

    @abstractmethod
    def training_pass(
        self,
        coder: SparseCoder,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        selection: torch.dtype,
    ) -> TrainingPass:
        """Codes and reconstructions of a training batch whose target is `y` (`x` itself for an SAE); `selection` is the
        precision in which latents may be chosen."""

    def after_step(self, coder: SparseCoder, done: TrainingPass, step: int, n_steps: int) -> None:  # noqa: B027
        """Update running state (a threshold estimate, the price of sparsity) after step `step` of `n_steps`."""

    def calibrate(self, coder: SparseCoder, batches: list[Float[Tensor, "tokens d_in"]]) -> None:  # noqa: B027
        """Settle inference-time state on normalised activations so that mean L0 is what was asked for."""

    def refit(  # noqa: B027
        self, coder: SparseCoder, pairs: list[tuple[Float[Tensor, "tokens d_in"], Float[Tensor, "tokens d_out"]]]
    ) -> None:
        """Undo what the penalty did to values, on normalised inputs and targets of the training rows; after `calibrate`."""

    def inference_options(self) -> dict[str, Any]:
        """Options of the inference architecture."""
        return {}

    def inference_tensors(
        self, coder: SparseCoder, norms: Float[Tensor, "d_sae"], moved: Float[Tensor, "d_sae"]
    ) -> dict[str, Float[Tensor, "..."]]:
        """The inference architecture's own tensors, when every pre-activation changes to norms · (pre + moved) at equal
        weights: `norms` rescales a latent, `moved` is what its bias takes over from the input's mean."""
        return {}

    def levels(self) -> list[int]:
        """Cumulative latent counts of nested levels; one level for most."""
        return [self.d_sae]

    def describe(self) -> dict[str, Any]:
        return self.options.model_dump(mode="json")

    def settle(self, coder: SparseCoder) -> None:  # noqa: B027
        """Set what follows from the weights that `not_filed` leaves out, when a coder has been read."""

    def file_entries(self) -> dict[str, Any]:
        """What SAELens's configuration needs to know of this architecture at inference."""
        return {}


class RunOnly(Architecture):
    """An architecture that other tools train and saescope runs."""

    trainable = False

    def training_pass(
        self,
        coder: SparseCoder,
        x: Float[Tensor, "tokens d_in"],
        y: Float[Tensor, "tokens d_out"],
        selection: torch.dtype,
    ) -> TrainingPass:
        self.refuse_training()
        raise NotImplementedError


_REGISTER: dict[str, type[Architecture]] = {}


def register(architecture: type[Architecture]) -> type[Architecture]:
    """Class decorator: make an architecture known by its name."""
    _REGISTER[architecture.name] = architecture
    return architecture


def architecture_names(*, trainable: bool = False) -> list[str]:
    """All architectures, or those that saescope trains."""
    return sorted(name for name, kind in _REGISTER.items() if kind.trainable or not trainable)


def architecture_type(name: str, *, trainable: bool = False) -> type[Architecture]:
    """The class of an architecture, or a `UsageError` that names the nearest. `trainable`: refuse those that are only run."""
    if name not in _REGISTER:
        known = architecture_names(trainable=trainable)
        these = "saescope trains" if trainable else "known:"
        raise UsageError(f"unknown architecture {name!r}; {these} {', '.join(known)}{nearest(name, known)}")
    kind = _REGISTER[name]
    if trainable:
        kind.refuse_training()
    return kind


def make_architecture(name: str, d_sae: int, options: dict[str, Any]) -> Architecture:
    """An architecture with checked options. Unknown or impossible options are a one-line `UsageError`."""
    kind = architecture_type(name)
    try:
        parsed = kind.options_type.model_validate(options)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "options"
        if first["type"] == "extra_forbidden":
            known = kind.options_type.model_fields
            raise UsageError(
                f"architecture {name!r} has no option {where!r}; it has {', '.join(known)}{nearest(where, known)}"
            ) from None
        given = f" (got {first['input']!r})" if "input" in first and first["type"] != "missing" else ""
        raise UsageError(f"architecture {name!r}, option {where}: {first['msg'].lower()}{given}") from None
    return kind(parsed, d_sae)
