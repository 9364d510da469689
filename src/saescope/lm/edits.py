"""What a run is asked to change, what an edit is told about where it acts, and what comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import ModelError


@dataclass(frozen=True)
class Positions:
    """Where the values given to an edit stand in their sequences.

    `index` counts from 0 at a sequence's first real token and counts on through generation, where each step brings
    one new column; it is -1 on padding (and on rows that have ended). `real` is False there. `tokens` are the ids that the
    model was given there; on padding they mean nothing.
    """

    index: Int[Tensor, "batch seq"]
    real: Bool[Tensor, "batch seq"]
    tokens: Int[Tensor, "batch seq"]

    @classmethod
    def of(cls, tokens: Int[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"] | None) -> Positions:
        """Positions of a whole batch; `mask` is None where nothing is padding."""
        if mask is None:
            index = torch.arange(tokens.shape[1], device=tokens.device).expand(tokens.shape)
            return cls(index, torch.ones_like(index, dtype=torch.bool), tokens)
        return cls((mask.long().cumsum(-1) - 1).masked_fill(~mask, -1), mask, tokens)


Change = Callable[[Float[Tensor, "batch seq d"], Positions], Float[Tensor, "batch seq d"]]


@dataclass(frozen=True)
class Edit:
    """Replace the values at `point` by `change(values, positions)`, of the same shape, dtype and device.

    Points with a head axis arrive flattened to `[batch, seq, heads * head_dim]`. What `change` returns on padding
    is ignored. Edits of one point apply in the order given. With `reads_only`, what `change` returns is ignored everywhere:
    it looks, and so may be at `resid_mid`, which can only be read.
    """

    point: str
    change: Change
    name: str = ""
    reads_only: bool = False

    def __str__(self) -> str:
        return f"edit {self.name!r} at {self.point}" if self.name else f"edit at {self.point}"


@dataclass(frozen=True)
class Run:
    """One forward pass: captured values by the names they were asked for, taken after the edits at the same point.

    `attn_probs.L` and `attn_scores.L` have no `[batch, seq, d]` form and come as `[batch, heads, query, key]`.
    `fired` counts the calls of each edited point.
    """

    activations: dict[str, Float[Tensor, "batch seq d"]]
    logits: Float[Tensor, "batch seq vocab"] | None
    fired: dict[str, int]


def padding_mask(
    tokens: Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None
) -> Bool[Tensor, "batch seq"] | None:
    """`attention_mask` as booleans on the tokens' device, or None where it hides nothing.

    None lets attention take its unmasked path, which is faster and gives the same values.
    """
    if attention_mask is None:
        return None
    if attention_mask.shape != tokens.shape:
        raise ModelError(
            f"attention_mask has shape {tuple(attention_mask.shape)} and tokens {tuple(tokens.shape)}; "
            "give one entry per token"
        )
    mask = attention_mask.to(tokens.device) != 0
    if bool(mask.all()):
        return None
    empty = (~mask.any(-1)).nonzero().flatten().tolist()
    if empty:
        raise ModelError(f"row {empty[0]} of the batch is all padding; leave it out or unmask a token")
    return mask


def apply_edit(
    edit: Edit, values: Float[Tensor, "batch seq d"], positions: Positions, *, padded: bool
) -> Float[Tensor, "batch seq d"]:
    """The edited values, checked; padding keeps the model's own."""
    # A copy, because an edit that works in place would reach whatever else shares the model's tensor.
    new = edit.change(values.clone(), positions)
    if not isinstance(new, Tensor):
        raise ModelError(f"{edit} returned {type(new).__name__}; return a tensor of shape {tuple(values.shape)}")
    if new.shape != values.shape:
        raise ModelError(
            f"{edit} returned shape {tuple(new.shape)}; it was given {tuple(values.shape)} and must keep it"
        )
    if new.dtype != values.dtype or new.device != values.device:
        raise ModelError(
            f"{edit} returned {new.dtype} on {new.device}; "
            f"it was given {values.dtype} on {values.device} and must keep both"
        )
    # A change that divides by a norm may give NaN on padding, and NaN times a zero attention weight is NaN.
    return torch.where(positions.real.unsqueeze(-1), new, values) if padded else new
