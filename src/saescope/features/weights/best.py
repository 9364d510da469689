"""The k largest products of each row with all columns: chosen in low precision, their values recomputed in float32.

Rows go in blocks, so that memory is a block's products. On a processor numbers are compared as integers of the same bits by
the compiled selection of `kernels`, which looks at few of them; elsewhere torch's top-k does it.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from saescope.kernels import compiled
from saescope.kernels.threads import in_ranges
from saescope.lm import has_native_bf16

# Chosen beyond k in low precision, because rounding reorders numbers that are nearly equal: bfloat16 errs by 2^-9 of a value,
# a tenth of the usual distance between the tenth and the sixteenth largest of 50,000.
SURPLUS = 6
# Products of a block, in elements. A block this large still fits a processor's outer cache with its operands.
BLOCK_ELEMENTS = 2**24
_KEYS = {torch.bfloat16: torch.int16, torch.float32: torch.int32}
_SIGN = {torch.int16: -(1 << 15), torch.int32: -(1 << 31)}


def rough_dtype(device: torch.device) -> torch.dtype:
    """What products are chosen in: bfloat16 where it is native, else float32."""
    return torch.bfloat16 if has_native_bf16(device) else torch.float32


def float64_device(device: torch.device) -> torch.device:
    """Where float64 of that device is computed: Apple's GPUs have none."""
    return torch.device("cpu") if device.type == "mps" else device


def block_rows(n_columns: int) -> int:
    """How many rows go together."""
    return max(1, BLOCK_ELEMENTS // max(1, n_columns))


def largest_places(products: Float[Tensor, "rows n"], k: int, *, smallest: bool = False) -> Int[Tensor, "rows k"]:
    """Where each row's k largest (or smallest) products are, in no particular order."""
    if products.device.type != "cpu" or products.dtype not in _KEYS or 4 * k > products.shape[1]:
        return products.float().topk(k, largest=not smallest).indices
    keys = products.contiguous().view(_KEYS[products.dtype])
    if smallest:
        keys = keys ^ _SIGN[keys.dtype]
    counts, places = np.empty(keys.shape[0], np.int64), np.empty((keys.shape[0], k), np.int32)
    array = keys.numpy()
    in_ranges(lambda start, stop: compiled.largest_of_rows(start, stop, array, k, counts, places), keys.shape[0])
    found = torch.from_numpy(places.astype(np.int64))
    # The selection sees numbers of one sign only; a row with fewer than k of those is done by torch.
    short = torch.from_numpy(np.flatnonzero(counts < k))
    if short.numel():
        found[short] = products[short].float().topk(k, largest=not smallest).indices
    return found


def exact_products(
    rows: Float[Tensor, "rows d"], columns: Float[Tensor, "n d"], places: Int[Tensor, "rows m"]
) -> Float[Tensor, "rows m"]:
    """rows[i] · columns[places[i, j]], in float32."""
    chosen = columns[places.to(columns.device)].float()
    return torch.bmm(chosen, rows.float()[:, :, None]).squeeze(2)


def ordered(
    places: Int[Tensor, "rows m"], values: Float[Tensor, "rows m"], k: int, *, smallest: bool = False
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The k best of each row, best first; of equals the lower place. [rows, k] each."""
    by_place = places.argsort(1)
    places, values = places.gather(1, by_place), values.gather(1, by_place)
    order = values.argsort(dim=1, descending=not smallest, stable=True)[:, :k]
    best, found = places.gather(1, order), values.gather(1, order)
    return best.cpu().numpy().astype(np.int32), found.cpu().numpy().astype(np.float32)
