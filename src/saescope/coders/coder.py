"""SparseCoder: one class for every architecture, in training and in use."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saescope.coders.architecture import Architecture
from saescope.coders.codes import Codes
from saescope.coders.metadata import CoderMetadata, Slice
from saescope.coders.token_norm import TokenNorm
from saescope.errors import CoderError
from saescope.kernels import Encoding, Room, Support, active, decode_from, preactivations_on
from saescope.lm import exact_float

# Picks latents by their pre-activations.
Choose = Callable[[Encoding], Support]


class SparseCoder(nn.Module):
    """Reads hook points, writes hook points, through an overcomplete sparse layer.

        f = σ((x - b_dec) · W_enc + b_enc)      x - b_dec only where `apply_b_dec_to_input` (SAEs without a skip connection)
        x̂ = f · W_dec + b_dec (+ x · W_skipᵀ)

    σ is the architecture's choice of latents. Several points are one concatenated vector, cut by `reads` and `writes`.

    Shapes: W_enc [d_in, d_sae], b_enc [d_sae], W_dec [d_sae, d_out], b_dec [d_out], W_skip [d_out, d_in] or None.
    The encoder is kept as `W_enc_rows` [d_sae, d_in], one latent's weights contiguous, because the sparse kernels read it by
    latent; `W_enc` is its transposed view.

    A coder from `saescope.load` works on raw activations: whatever normalisation it was trained with is folded in. Where
    that cannot be, because each token was normalised by itself, `token_norm` does it, and undoes it on the output of a coder
    that writes what it reads (a skip connection takes the raw input). Coders in training have none.
    """

    W_skip: nn.Parameter | None

    def __init__(
        self,
        architecture: Architecture,
        reads: Sequence[Slice],
        writes: Sequence[Slice],
        *,
        skip: bool = False,
        apply_b_dec_to_input: bool | None = None,
        token_norm: TokenNorm | None = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.reads, self.writes = tuple(reads), tuple(writes)
        self.d_in = sum(part.width for part in self.reads)
        self.d_out = sum(part.width for part in self.writes)
        self.d_sae = architecture.d_sae
        same = self.reads == self.writes and not skip
        self.apply_b_dec_to_input = same if apply_b_dec_to_input is None else apply_b_dec_to_input
        if self.apply_b_dec_to_input and self.d_in != self.d_out:
            raise CoderError(
                f"b_dec [{self.d_out}] cannot be subtracted from an input of width {self.d_in}; "
                "set apply_b_dec_to_input=False"
            )
        self.token_norm = token_norm
        self._room = Room()
        self.metadata = CoderMetadata(trained_as=architecture.name, options=architecture.describe())

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape, dtype=dtype, device=device))

        self.W_enc_rows = zeros(self.d_sae, self.d_in)
        self.b_enc = zeros(self.d_sae)
        self.W_dec = zeros(self.d_sae, self.d_out)
        self.b_dec = zeros(self.d_out)
        self.W_skip = zeros(self.d_out, self.d_in) if skip else None
        for name, value in architecture.extra_parameters().items():
            self.register_parameter(name, nn.Parameter(value.to(device=device, dtype=dtype)))
        for name, value in architecture.extra_tensors().items():
            exact = exact_float(torch.device(device))
            self.register_buffer(name, value.to(device, exact if value.dtype == torch.float64 else value.dtype))
        self.extra_names = (*architecture.extra_parameters(), *architecture.extra_tensors())

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> SparseCoder:
        # `to` and the like. A device without float64 takes what is kept in it as float32.
        exact = exact_float(fn(torch.empty(0)).device)
        fitting = lambda value: fn(value.to(exact) if value.dtype == torch.float64 else value)  # noqa: E731
        super()._apply(fitting, recurse)  # type: ignore[no-untyped-call]
        return self

    @property
    def W_enc(self) -> Float[Tensor, "d_in d_sae"]:
        return self.W_enc_rows.T

    @property
    def kind(self) -> str:
        """`sae`, `transcoder`, `skip_transcoder` or `crosscoder`, from what it reads and writes."""
        if len(self.reads) > 1 or len(self.writes) > 1:
            return "crosscoder"
        if self.W_skip is not None:
            return "skip_transcoder"
        return "sae" if self.reads == self.writes else "transcoder"

    @property
    def dtype(self) -> torch.dtype:
        return self.W_dec.dtype

    @property
    def device(self) -> torch.device:
        return self.W_dec.device

    @property
    def input_shift(self) -> Tensor | None:
        """What is subtracted from the input before the encoder, if anything."""
        return self.b_dec if self.apply_b_dec_to_input else None

    def check_input(self, x: Tensor) -> Float[Tensor, "tokens d_in"]:
        """`x` in the coder's dtype and device, or a one-line `CoderError` about its shape."""
        if x.ndim != 2 or x.shape[1] != self.d_in:
            points = ", ".join(part.point for part in self.reads)
            raise CoderError(
                f"this coder reads [tokens, {self.d_in}] ({points}), got {list(x.shape)}; "
                "flatten batch and position first, and check that the activations are of its model and point"
            )
        return x.to(device=self.device, dtype=self.dtype)

    def centred(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_in"]:
        """The encoder's input: x - b_dec for an SAE, x itself for a transcoder. No gradient to b_dec; see `chosen`."""
        return x - self.b_dec.detach() if self.apply_b_dec_to_input else x

    def extra(self, name: str) -> Tensor:
        """One of the architecture's own tensors, trained or kept."""
        value: Tensor = getattr(self, name)
        return value

    def preactivations_on(
        self,
        support: Support,
        x: Float[Tensor, "tokens d_in"],
        *,
        known: Float[Tensor, "nnz"] | None = None,
        centred: Float[Tensor, "tokens d_in"] | None = None,
    ) -> Float[Tensor, "nnz"]:
        """Pre-activations of given latents at given tokens, differentiable in x and the weights. `known`: these, `centred`: the
        encoder's input, where they have been computed already."""
        return preactivations_on(
            support, x, self.W_enc_rows, self.b_enc, self.input_shift, known=known, centred=centred
        )

    def encoding(self, x: Float[Tensor, "tokens d_in"]) -> Encoding:
        """What pre-activations are made of, for kernels that choose latents. Without gradient."""
        return Encoding(self.centred(x), self.W_enc_rows.detach(), self.b_enc.detach())

    def chosen(self, x: Float[Tensor, "tokens d_in"], choose: Choose) -> Codes:
        """Rectified pre-activations, differentiable, of the latents that `choose` picks."""
        with torch.no_grad():
            pre = self.encoding(x)
            support = choose(pre)
        return Codes(support, self.preactivations_on(support, x, centred=pre.x).relu())

    def above(self, x: Float[Tensor, "tokens d_in"], threshold: Float[Tensor, "d_sae"]) -> Codes:
        """Pre-activations, differentiable, that are above `threshold` and above zero. In training on a GPU also entries of
        value zero and without gradient; see `Room`."""
        # What is left out where place is short depends on when counts arrive.
        exact = not self.training or not torch.is_grad_enabled() or torch.are_deterministic_algorithms_enabled()
        room = None if exact else self._room
        with torch.no_grad():
            pre = self.encoding(x)
            support, known = active(self.device).select_threshold(pre, threshold.to(x.dtype), room=room)
        return Codes(support, self.preactivations_on(support, x, known=known, centred=pre.x).relu())

    def encode(self, x: Float[Tensor, "tokens d_in"]) -> Codes:
        """Codes of raw activations. Raises `CoderError` on a wrong width."""
        x = self.check_input(x)
        return self.architecture.encode(self, x if self.token_norm is None else self.token_norm.apply(x))

    def decode(self, codes: Codes, x: Float[Tensor, "tokens d_in"] | None = None) -> Float[Tensor, "tokens d_out"]:
        """Reconstruction from codes. A skip transcoder, and a coder that undoes its `token_norm`, need the input that the codes
        are of as well."""
        if codes.d_sae != self.d_sae:
            raise CoderError(
                f"codes of {codes.d_sae} latents given to a coder of {self.d_sae}; they are another coder's"
            )
        latents = decode_from(codes.support, codes.values.to(self.dtype), self.W_dec)
        if self.token_norm is None or self.reads != self.writes:
            return latents + self.rest(x)
        if x is None:
            raise CoderError(
                f"this coder undoes its {self.token_norm.kind} on the output, which takes its input: call decode(codes, x)"
            )
        return self.token_norm.undo(latents + self.b_dec, self.check_input(x)) + self.skip(x)

    def rest(self, x: Float[Tensor, "tokens d_in"] | None) -> Float[Tensor, "*tokens d_out"]:
        """What the output has beside the latents' part: b_dec [d_out], or with a skip connection [tokens, d_out]."""
        return self.b_dec + self.skip(x)

    def skip(self, x: Float[Tensor, "tokens d_in"] | None) -> Float[Tensor, "tokens d_out"] | float:
        """The skip connection's part of the output; 0 for coders without one."""
        if self.W_skip is None:
            return 0.0
        if x is None:
            raise CoderError("a skip transcoder's output depends on its input: call decode(codes, x)")
        return self.check_input(x) @ self.W_skip.T

    def forward(self, x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d_out"]:
        """decode(encode(x))."""
        return self.decode(self.encode(x), x)

    def extra_repr(self) -> str:
        reads = "+".join(part.point for part in self.reads)
        writes = "+".join(part.point for part in self.writes)
        where = reads if reads == writes else f"{reads} -> {writes}"
        return (
            f"{self.metadata.trained_as} {self.kind}, {where}, d_in={self.d_in}, d_out={self.d_out}, d_sae={self.d_sae}"
        )
