"""What gated does that others do not: its two paths begin at a length that fits."""

from __future__ import annotations

import pytest
import torch
from tests.coders.conftest import some_x

from saescope.coders import Slice, SparseCoder, make_architecture


@pytest.mark.parametrize("l0", [1, 8, 24])
def test_the_first_reconstruction_has_the_length_that_explains_most(l0: int) -> None:
    """The one factor is a least-squares fit, so error and reconstruction are at right angles, however many gates are open."""
    coder = SparseCoder(make_architecture("gated", 48, {"l0": l0}), *[[Slice(point="resid_post.1", width=10)]] * 2)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rows = torch.randn(48, 10, generator=generator)
        coder.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        coder.W_enc_rows.copy_(coder.W_dec)
        x = some_x(tokens=400, dtype=torch.float32)
        coder.architecture.prepare(coder, x, warm=False)
        x_hat = coder(x)
    assert coder.encode(x).nnz / 400 == pytest.approx(l0, rel=0.02)
    along = ((x - x_hat) * x_hat).sum() / x_hat.square().sum()
    assert abs(float(along)) < 1e-4
    assert (x - x_hat).square().sum() < x.square().sum()
    assert coder.extra("r_mag").unique().numel() == 1
