"""An encoder row that follows its decoder row: the same training as of an explicit sum, and none across spaces."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.coders.conftest import small_coder, some_x
from torch import Tensor

from saescope.coders import SparseCoder
from saescope.training.optimiser import CoderOptimiser

SHARE = 0.7


def optimiser(coder: SparseCoder, tied: float) -> CoderOptimiser:
    return CoderOptimiser(coder, 3e-2, betas=(0.9, 0.999), eps=1e-8, clip=1.0, tied=tied)


def loss(coder: SparseCoder, encoder: Tensor, x: Tensor) -> Tensor:
    f = ((x - coder.b_dec) @ encoder.T + coder.b_enc).relu()
    return (f @ coder.W_dec + coder.b_dec - x).pow(2).mean()


def test_adam_moves_the_sum_of_a_share_of_the_decoder_and_a_part_of_its_own() -> None:
    together = small_coder("topk")
    explicit = copy.deepcopy(together)
    with torch.no_grad():
        explicit.W_enc_rows -= SHARE * explicit.W_dec
    by_itself, by_hand = optimiser(together, SHARE), optimiser(explicit, 0)
    for step in range(4):
        x = some_x(seed=step)
        loss(together, together.W_enc_rows, x).backward()
        loss(explicit, SHARE * explicit.W_dec + explicit.W_enc_rows, x).backward()
        norms = by_itself.step(0.5 + step), by_hand.step(0.5 + step)
        torch.testing.assert_close(*norms, rtol=1e-10, atol=0)
    torch.testing.assert_close(together.W_dec, explicit.W_dec, rtol=0, atol=1e-12)
    whole = SHARE * explicit.W_dec + explicit.W_enc_rows
    torch.testing.assert_close(together.W_enc_rows, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(together.b_enc, explicit.b_enc, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("d_out", "frozen"), [(10, False), (7, False), (None, True)])
def test_a_decoder_of_another_space_or_at_rest_is_not_followed(d_out: int | None, frozen: bool) -> None:
    coder = small_coder("topk", d_out=d_out)
    coder.W_dec.requires_grad_(not frozen)
    alone = copy.deepcopy(coder)
    for each, tied in ((coder, SHARE), (alone, 0.0)):
        stepping = optimiser(each, tied)
        for step in range(3):
            x = some_x(seed=step)
            f = (each.centred(x) @ each.W_enc + each.b_enc).relu()
            (f @ each.W_dec + each.b_dec).pow(2).mean().backward()
            stepping.step(1.0)
    assert torch.equal(coder.W_enc_rows, alone.W_enc_rows)
    assert torch.equal(coder.W_dec, alone.W_dec)
