"""Which latents count as dead, and how often that is asked."""

from __future__ import annotations

import pytest
import torch

from saescope.coders import Codes
from saescope.training.firing import FiringRecord


def fired(*latents: int) -> Codes:
    """Two tokens, on both of which those of four latents fire; a chosen latent of value zero does not."""
    dense = torch.zeros(2, 4)
    dense[:, list(latents)] = 1.0
    return Codes.from_dense(dense)


def test_silence_counts_tokens_and_ends_with_firing() -> None:
    record = FiringRecord(4)
    record.update(fired(0, 1))
    record.update(fired(0))
    assert record.silent.tolist() == [0, 2, 4, 4]
    assert record.dead(4).tolist() == [False, False, True, True]
    assert record.dead_list(4, step=5).tolist() == [2, 3]
    codes = fired(2)
    record.update(Codes(codes.support, torch.zeros_like(codes.values)))
    assert record.silent.tolist() == [2, 4, 6, 6]


def test_a_list_stands_until_it_is_asked_for_again() -> None:
    record = FiringRecord(4, ask_every=3)
    record.update(fired(0))
    assert record.dead_list(2, step=1).tolist() == [], "nothing was asked yet"
    assert record.dead_list(2, step=3).tolist() == [1, 2, 3]
    record.update(fired(1))
    assert record.dead_list(2, step=4).tolist() == [1, 2, 3]
    assert record.dead_list(2, step=6).tolist() == [0, 2, 3]


@pytest.mark.parametrize("ask_every", [1, 3])
def test_restarted_latents_are_dead_no_more_and_a_restored_record_knows(ask_every: int) -> None:
    first, second = FiringRecord(4, ask_every=ask_every), FiringRecord(4, ask_every=ask_every)
    first.update(fired(0))
    assert first.dead_list(2, step=0).tolist() == [1, 2, 3]
    first.restarted(torch.tensor([1, 3]))
    assert first.dead_list(2, step=ask_every + 1).tolist() == [2]
    first.restarted(torch.tensor([2]))
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for step in range(1, 5):
        assert first.dead_list(2, step).tolist() == second.dead_list(2, step).tolist() == []


def test_a_restored_record_goes_on_as_the_first() -> None:
    first, second = FiringRecord(4, ask_every=3), FiringRecord(4, ask_every=3)
    first.update(fired(0))
    first.dead_list(2, step=0)
    first.update(fired(1))
    second.load_state({name: tensor.clone() for name, tensor in first.state().items()})
    for step in range(1, 8):
        assert torch.equal(first.dead_list(2, step), second.dead_list(2, step))
        for record in (first, second):
            record.update(fired(step % 4))
    assert torch.equal(first.silent, second.silent)
