"""One import in progress: what the user said beside the files, what the files left unsaid, and the coder put together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders.architecture import make_architecture
from saescope.coders.coder import SparseCoder
from saescope.coders.formats.points import Place, place_of
from saescope.coders.formats.source import Source
from saescope.coders.metadata import CoderMetadata, Slice
from saescope.coders.token_norm import TokenNorm
from saescope.errors import CoderError, UsageError

# How each is given in Python and on the command line.
_OPTIONS = {
    "reads": ("reads='resid_post.14'", "--reads resid_post.14"),
    "writes": ("writes='mlp_out.14'", "--writes mlp_out.14"),
    "layer": ("layer=14", "--layer 14"),
    "input_scale": ("input_scale=0.05", "--input-scale 0.05"),
    "file": ("file='NAME'", "--file NAME"),
}


def refuse_scale(factor: float) -> None:
    """CoderError where activations cannot be multiplied by it."""
    if not 0 < factor < float("inf"):
        raise CoderError(f"activations cannot be scaled by {factor:g}; give a positive number")


@dataclass(frozen=True)
class Given:
    """What a user may say of a coder whose files do not. None: not said."""

    reads: str | None = None
    writes: str | None = None
    layer: int | None = None
    input_scale: tuple[float, ...] = ()


@dataclass
class Parts:
    """A coder's weights in our layout, in float32.

    Shapes: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out], b_dec [d_out], W_skip [d_out, d_in]; extra: the
    architecture's own tensors by its names for them.
    """

    architecture: str
    W_dec: Float[Tensor, "d_sae d_out"]
    b_dec: Float[Tensor, "d_out"]
    W_enc: Float[Tensor, "d_in d_sae"] | None = None
    b_enc: Float[Tensor, "d_sae"] | None = None
    W_skip: Float[Tensor, "d_out d_in"] | None = None
    options: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Tensor] = field(default_factory=dict)
    apply_b_dec_to_input: bool = False
    token_norm: TokenNorm | None = None

    @property
    def d_in(self) -> int:
        return self.W_dec.shape[1] if self.W_enc is None else self.W_enc.shape[0]

    def scale_input(self, factor: float, out: float | None = None) -> None:
        """Fold an input multiplied by `factor` and an output divided by `out` (`factor` unless given) into the weights;
        codes keep their values."""
        out = factor if out is None else out
        refuse_scale(factor)
        refuse_scale(out)
        self.W_enc = None if self.W_enc is None else self.W_enc * factor
        self.W_dec, self.b_dec = self.W_dec / out, self.b_dec / out
        self.W_skip = None if self.W_skip is None else self.W_skip * (factor / out)

    def scale_codes(self, factor: float | Float[Tensor, "d_sae"]) -> None:
        """Multiply codes by `factor` and divide decoder rows by it. Thresholds stay: call it where the source compares them
        with values so scaled."""
        if self.W_enc is None or self.b_enc is None:
            raise CoderError("the codes of a coder without an encoder cannot be rescaled")
        rows = torch.as_tensor(factor).expand(self.W_dec.shape[0])
        self.W_enc, self.b_enc, self.W_dec = self.W_enc * rows, self.b_enc * rows, self.W_dec / rows[:, None]

    def unit_rows(self) -> None:
        """Give every decoder row length one and its latent's value the length instead. Thresholds stay, as in `scale_codes`."""
        self.scale_codes(self.W_dec.norm(dim=1).clamp(min=1e-30))


class Reading:
    """A coder being read from `source`; collects what was assumed, and what its files say beyond the weights."""

    def __init__(self, source: Source, given: Given) -> None:
        self.source, self.given = source, given
        self._gone_by: set[str] = set()
        self.warnings: list[str] = []
        self.facts: dict[str, Any] = {}
        self.metadata = CoderMetadata()

    def warn(self, text: str) -> None:
        """Something the files leave unsaid, and what is assumed."""
        self.warnings.append(text)

    def ask(self, option: str, unsaid: str) -> NoReturn:
        """Refuse until the user says what the files do not."""
        in_python, in_words = _OPTIONS[option]
        raise CoderError(f"{self.source.spec} does not say {unsaid}; give it with {in_python} ({in_words})")

    def told(self, option: str) -> Any:
        """What the user said of this, for a format to go by."""
        self._gone_by.add(option)
        return getattr(self.given, option)

    def passed_over(self) -> list[str]:
        """What the user said and the format had no use for."""
        return [
            name for name, value in vars(self.given).items() if value not in (None, ()) and name not in self._gone_by
        ]

    def input_scale(self) -> float | None:
        """The one factor that was given for what a coder reads; None without."""
        scales: tuple[float, ...] = self.told("input_scale")
        if len(scales) > 1:
            self.refuse(f"reads one hook point, and input_scale was given as {list(scales)}; give one number")
        return next(iter(scales), None)

    def refuse(self, why: str) -> NoReturn:
        raise CoderError(f"{self.source.spec} {why}")

    def read_point(self, said: str | None) -> Place:
        """Where the coder reads: the user's word, else the files'."""
        return self._place("reads", said)

    def write_point(self, said: str | None) -> Place:
        return self._place("writes", said)

    def _place(self, option: str, said: str | None) -> Place:
        given: str | None = self.told(option)
        if given is not None:
            place = place_of(given)
            if place is None:
                raise UsageError(
                    f"{option} = {given!r} is not a hook point; write resid_post.14, or a name of TransformerLens or a module"
                )
            if said is not None and (stated := place_of(said)) is not None and stated.point != place.point:
                self.warn(f"its files name {said} ({stated.point}) and {option} was given as {given}, which is used")
            return place
        if not said:
            self.ask(option, f"which hook point it {option}")
        place = place_of(said)
        if place is None:
            self.ask(option, f"in a name saescope knows which hook point it {option} (it says {said!r})")
        if place.token_norm is not None:
            self.warn(
                f"it {option} {said}, a norm before its gain: taken as {place.point} normalised to unit mean square per token, "
                "as in models whose norm is RMSNorm"
            )
        return place

    def model(self, name: object) -> None:
        """Record the model's name."""
        if isinstance(name, str) and name:
            self.metadata.model = {"spec": name}

    def sequences(self, *, context: object = None, bos: object = None) -> None:
        """Record how texts became sequences; BOS unsaid is warned of."""
        if isinstance(context, int) and not isinstance(context, bool) and context >= 2:
            self.metadata.sequences["context"] = context
        if isinstance(bos, bool):
            self.metadata.sequences["bos"] = "always" if bos else "never"
        else:
            self.warn("its files do not say whether texts began with BOS; what the tokenizer does by itself is assumed")

    def sae(self, parts: Parts, place: Place) -> SparseCoder:
        """A coder that writes what it reads."""
        if place.token_norm is not None:
            self.refuse(
                f"is an SAE of what lies inside a norm; saescope has no such hook point, only {place.point} before it"
            )
        points = [Slice(point=place.point, width=parts.d_in)]
        return self.assemble(parts, points, points)

    def transcoder(self, parts: Parts, reads: Place, writes: Place) -> SparseCoder:
        """A coder that reads one point and writes another."""
        if reads.point == writes.point:
            self.refuse(f"is a transcoder, and both its points are {reads.point}; give another for one of them")
        return self.assemble(
            parts,
            [Slice(point=reads.point, width=parts.d_in)],
            [Slice(point=writes.point, width=parts.W_dec.shape[1])],
            reads.token_norm,
        )

    @torch.no_grad()
    def assemble(
        self, parts: Parts, reads: list[Slice], writes: list[Slice], token_norm: TokenNorm | None = None
    ) -> SparseCoder:
        """The coder of these weights, for use. CoderError where its options cannot work."""
        d_sae = parts.W_dec.shape[0]
        try:
            architecture = make_architecture(parts.architecture, d_sae, parts.options)
        except UsageError as error:
            raise CoderError(f"{self.source.spec}: {error}") from None
        k = parts.options.get("k")
        if k is not None and k > d_sae:
            self.refuse(f"has k = {k} and only {d_sae} latents; its files do not match one another")
        coder = SparseCoder(
            architecture,
            reads,
            writes,
            skip=parts.W_skip is not None,
            apply_b_dec_to_input=parts.apply_b_dec_to_input,
            token_norm=parts.token_norm or token_norm,
        )
        if parts.W_enc is not None:
            coder.W_enc_rows.copy_(parts.W_enc.T)
        if parts.b_enc is not None:
            coder.b_enc.copy_(parts.b_enc)
        coder.W_dec.copy_(parts.W_dec)
        coder.b_dec.copy_(parts.b_dec)
        if coder.W_skip is not None and parts.W_skip is not None:
            coder.W_skip.copy_(parts.W_skip)
        for name, value in parts.extra.items():
            coder.extra(name).copy_(value)
        architecture.settle(coder)
        if not all(torch.isfinite(weight).all() for weight in coder.parameters()):
            self.refuse("has weights that overflow when its scales are folded in; it is damaged")
        self.metadata.trained_as = self.metadata.trained_as or parts.architecture
        self.metadata.options = self.metadata.options or architecture.describe()
        coder.metadata = self.metadata
        return coder.eval().requires_grad_(False)


def flag(reading: Reading, where: str, config: dict[str, Any], name: str, *, default: bool = False) -> bool:
    """A boolean of a configuration; null is as good as nothing."""
    value = config.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise CoderError(f"{reading.source.label(where)} has {name} = {value!r}; it should be true or false")
    return value


def whole_number(reading: Reading, where: str, name: str, value: object) -> int:
    """A positive integer of a configuration."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
        raise CoderError(f"{reading.source.label(where)} has {name} = {value!r}, which is not a positive number")
    return value
