"""A coder to be measured, with what was measured in its training that the measurement needs."""

from __future__ import annotations

import copy
import operator
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.activations import KeptRule
from saescope.coders import Slice, SparseCoder, load, load_reference
from saescope.errors import CoderError, ForeignCoderWarning, UsageError
from saescope.lm import LanguageModel
from saescope.lm.identity import weights_differ
from saescope.text import SequenceOptions


@dataclass(frozen=True)
class Subject:
    """A coder and its reference tensors: `mean.POINT` [d] and `components.POINT` [m, d] of the training activations."""

    coder: SparseCoder
    reference: Mapping[str, Tensor] = field(default_factory=dict)

    @staticmethod
    def of(given: Subject | SparseCoder | str | Path) -> Subject:
        """From a coder, or the folder of one (with its reference file)."""
        if isinstance(given, Subject):
            return given
        if isinstance(given, SparseCoder):
            return Subject(given)
        coder = load(given)
        coder.metadata.name = coder.metadata.name or Path(given).name
        return Subject(coder, _fitting(load_reference(given), coder, given))

    def on(self, device: torch.device) -> Subject:
        """The same on that device, where its model runs: a copy of the coder, unless it is there, for a caller's own stays
        where it is."""
        if self.coder.device == device:
            return self
        return replace(self, coder=copy.deepcopy(self.coder).to(device))

    @property
    def name(self) -> str:
        return self.coder.metadata.name or "coder"

    def model_spec(self) -> str:
        """What to load its model by. UsageError where it does not say."""
        spec = self.coder.metadata.model.get("spec")
        if not spec:
            raise UsageError(f"coder {self.name} does not record the model it was trained on; name it with --model")
        return str(spec)

    @property
    def points(self) -> list[str]:
        """Every hook point needed to measure it: read, written, and looked at by its exclusion rule."""
        rule = self.coder.metadata.kept_rule.get("reference_norm", {})
        parts = (*self.coder.reads, *self.coder.writes)
        return list(dict.fromkeys([*(part.point for part in parts), *rule]))

    def training_mean(self, slices: tuple[Slice, ...]) -> Float[Tensor, "d"] | None:
        """The mean training activation of these points, or None where the coder came without it."""
        names = [f"mean.{part.point}" for part in slices]
        if any(name not in self.reference for name in names):
            return None
        return torch.cat([self.reference[name].float() for name in names])

    def sequence_options(self) -> SequenceOptions:
        """How its training text was cut into sequences; the defaults where it does not say."""
        known = {
            key: value for key, value in self.coder.metadata.sequences.items() if key in SequenceOptions.model_fields
        }
        return SequenceOptions(**known)

    def kept_rule(self) -> KeptRule | None:
        """Which positions its training left out; None where it does not say."""
        return KeptRule.from_dict(self.coder.metadata.kept_rule) if self.coder.metadata.kept_rule else None

    def rule_for(
        self,
        tokens: Int[Tensor, "batch seq"],
        activations: Mapping[str, Float[Tensor, "batch seq d"]],
        special_ids: Iterable[int],
    ) -> KeptRule:
        """Its own rule, or where it does not say one measured on these activations at the points it reads and writes.
        `tokens` holds -1 on padding."""
        parts = (*self.coder.reads, *self.coder.writes)
        own = {part.point: activations[part.point] for part in parts}
        device = next(iter(own.values())).device
        return self.kept_rule() or KeptRule.measured([(tokens.to(device), own)], special_ids)

    def check_model(self, lm: LanguageModel) -> None:
        """CoderError, in one line, unless `lm` is the model this coder was trained on, as far as it says.
        ForeignCoderWarning where all that it says is a name, and that is another."""
        trained, given = self.coder.metadata.model, lm.identity()
        for key in ("architecture", "n_layers", "d_model", "vocab_size", "weights", "tokenizer"):
            other = weights_differ if key == "weights" else operator.ne
            if trained.get(key) is not None and other(trained[key], given[key]):
                raise CoderError(
                    f"coder {self.name} was trained on {trained.get('spec') or trained.get('name')} "
                    f"({key} {_short(trained[key])}), {lm.spec} has {key} {_short(given[key])}; give its own with --model"
                )
        for part in (*self.coder.reads, *self.coder.writes):
            width = lm.width(part.point)
            if width != part.width:
                raise CoderError(
                    f"coder {self.name} takes {part.point} of width {part.width}, {lm.spec} has {width} there; "
                    "give the model it was trained on with --model"
                )
        # Widths agree between many models, and files of other tools have no more than a name to tell them by.
        spec = trained.get("spec")
        if spec and trained.get("weights") is None and _last(spec) not in (_last(lm.spec), _last(given["name"])):
            warnings.warn(
                f"coder {self.name} is by its files of {spec} and is used with {lm.spec}, taken to be the same model",
                ForeignCoderWarning,
                stacklevel=2,
            )


def _last(spec: object) -> str:
    """The letters and figures of a model's own name: owners, folders, revisions and hyphens come and go."""
    name = str(spec).rstrip("/").rsplit("/", 1)[-1].split("@")[0]
    return "".join(filter(str.isalnum, name)).lower()


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:8]}…" if len(text) > 24 else text


def _fitting(reference: dict[str, Tensor], coder: SparseCoder, given: str | Path) -> dict[str, Tensor]:
    """The reference tensors, or a `CoderError` where they are not of this coder's points, or are no numbers."""
    for part in (*coder.reads, *coder.writes):
        for name in (f"mean.{part.point}", f"components.{part.point}"):
            tensor = reference.get(name)
            if tensor is not None and (tensor.shape[-1] != part.width or not tensor.isfinite().all()):
                raise CoderError(
                    f"{given}: {name} of its reference.safetensors is {list(tensor.shape)}, or not finite, for a point of "
                    f"width {part.width}; delete that file to do without"
                )
    return reference
