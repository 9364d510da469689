"""How far selection margins have to move for a coder to have the L0 that was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.kernels import Support, active
from saescope.lm import exact_float

# Added to every margin while the strongest are looked for, because selection returns positive entries only. Exactly
# representable, and far above any margin of normalised activations that could be among the strongest.
_LIFT = 64.0


Counts = Callable[[Support, Float[Tensor, "nnz"]], Bool[Tensor, "nnz"]]


@torch.no_grad()
def margin_for_l0(
    coder: SparseCoder,
    batches: list[Float[Tensor, "tokens d_in"]],
    offset: Float[Tensor, "d_sae"],
    l0: float,
    counts: Counts | None = None,
) -> float | None:
    """The value that x · W_enc + offset exceeds l0 times per token on average over `batches`; None where there are no tokens
    or never so many entries.

    Halfway between the last entry that should be active and the first that should not. `counts`, of a support and its
    products x · W_enc, says which entries are active at all once chosen (default: every one).
    """
    n_tokens = sum(x.shape[0] for x in batches)
    wanted = round(l0 * n_tokens)
    # Twice the mean L0 of each batch nearly always includes the pooled strongest; if not, look further.
    share = 2 * l0
    while wanted >= 1:
        pooled = [_strongest(coder, x, offset, round(share * x.shape[0]) + 1, counts) for x in batches]
        margins = torch.cat(pooled)
        if margins.numel() > wanted:
            top = margins.topk(wanted + 1).values
            return (float(top[-1]) + float(top[-2])) / 2
        if share >= coder.d_sae:
            break
        share *= 2
    return None


def best_factor(parts: Iterable[tuple[Float[Tensor, "tokens d"], Float[Tensor, "tokens d"]]]) -> float | None:
    """argmin_s Σ‖target - s·explained‖² over (target, explained); None where it is no positive number."""
    along, square = 0.0, 0.0
    for target, explained in parts:
        exact = exact_float(explained.device)
        along += float((target * explained).sum(dtype=exact))
        square += float(explained.to(exact).square().sum())
    return along / square if along > 0 and square > 0 else None


def _strongest(
    coder: SparseCoder,
    x: Float[Tensor, "tokens d_in"],
    offset: Float[Tensor, "d_sae"],
    count: int,
    counts: Counts | None,
) -> Float[Tensor, "found"]:
    """The largest margins of a batch, those that count."""
    kernels, pre = active(coder.device), coder.encoding(x)
    lifted = replace(pre, bias=offset + _LIFT)
    support = kernels.select_batch_topk(lifted, min(count, x.shape[0] * coder.d_sae))
    products = kernels.sampled_product(support, pre.x, pre.weight)
    margins = products + offset[support.indices]
    return margins if counts is None else margins[counts(support, products)]
