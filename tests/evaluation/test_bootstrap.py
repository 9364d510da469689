"""Intervals over documents."""

from __future__ import annotations

import pytest
import torch

from saescope.evaluation.bootstrap import intervals
from saescope.evaluation.documents import DocumentSums
from saescope.evaluation.reconstruction import ReconstructionSums


def sums_of(active: torch.Tensor, tokens: int = 100) -> DocumentSums:
    """Documents of equal length with these mean L0s, and reconstruction sums of no interest."""
    sums = DocumentSums(active.numel())
    every = torch.arange(active.numel())
    sums.add("tokens", every, torch.full((active.numel(),), float(tokens)))
    sums.add("active", every, active * tokens)
    sums.add("error2", every, torch.ones(active.numel()))
    sums.add("moved2", every, torch.full((active.numel(),), 2.0))
    sums.add("moved", every, torch.zeros(active.numel(), 3))
    return sums


def test_width_is_that_of_the_mean_over_documents() -> None:
    active = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 4 + 30
    low, high = intervals(sums_of(active))["l0"] or (0, 0)
    assert low < float(active.mean()) < high
    assert high - low == pytest.approx(2 * 1.96 * float(active.std()) / 200**0.5, rel=0.15)


def test_documents_that_agree_leave_no_doubt() -> None:
    low, high = intervals(sums_of(torch.full((10,), 32.0)))["l0"] or (0, 0)
    assert low == pytest.approx(32)
    assert high == pytest.approx(32)


def test_one_document_gives_no_interval() -> None:
    sums = sums_of(torch.tensor([30.0, 0.0]))
    sums["tokens"][1] = 0
    assert intervals(sums) == {"fvu_centered": None, "l0": None}


def test_the_same_seed_gives_the_same_interval_and_another_a_close_one() -> None:
    sums = sums_of(torch.rand(50) * 10 + 25)
    assert intervals(sums) == intervals(sums)
    assert intervals(sums, seed=1)["l0"] != intervals(sums)["l0"]


def test_a_resample_is_measured_as_a_text_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = [torch.randn(20, 4, generator=generator) + 3 * index for index in range(3)]
    x_hat = [part * 0.8 for part in x]
    documents = DocumentSums(3)
    sums = ReconstructionSums(4, documents)
    for index in range(3):
        sums.update(x[index], x_hat[index], torch.full((20,), index))
    # One resample that takes document 0 twice and document 2 once.
    monkeypatch.setattr(torch, "randint", lambda *args, **kwargs: torch.tensor([[0, 2, 0]]))
    low, high = intervals(documents, resamples=1)["fvu_centered"] or (0, 0)
    both = ReconstructionSums(4, DocumentSums(1))
    both.update(
        torch.cat([x[0], x[2], x[0]]), torch.cat([x_hat[0], x_hat[2], x_hat[0]]), torch.zeros(60, dtype=torch.long)
    )
    assert low == high == pytest.approx(both.metrics()["fvu_centered"])


def test_recovered_loss_needs_its_ablation() -> None:
    sums = sums_of(torch.rand(20) * 5 + 30)
    every = torch.arange(20)
    for name, value in {"targets": 100.0, "ce_orig": 300.0, "ce_zero": 1000.0, "ce": 370.0, "kl": 50.0}.items():
        sums.add(name, every, torch.full((20,), value))
    found = intervals(sums)
    assert found["ce_recovered"] == pytest.approx((0.9, 0.9))
    assert found["kl"] == pytest.approx((0.5, 0.5))
    assert "ce_recovered_mean" not in found


def test_documents_without_predictions_say_nothing_of_ce() -> None:
    """CE is measured on a part of the tokens: of one document's predictions no interval follows, however many documents the
    reconstruction has."""
    sums = DocumentSums(4)
    for document in range(4):
        where = torch.tensor([document])
        for name in ("tokens", "error2", "moved2", "active"):
            sums.add(name, where, torch.tensor([1.0 + document]))
        sums.add("moved", where, torch.zeros(1, 2))
    for name, value in (("targets", 3.0), ("ce", 2.0), ("ce_orig", 1.0), ("ce_zero", 9.0), ("kl", 0.5)):
        sums.add(name, torch.tensor([1]), torch.tensor([value]))
    found = intervals(sums)
    assert found["kl"] is None
    assert found["ce_recovered"] is None
    assert found["l0"] is not None
    for name, value in (("targets", 3.0), ("ce", 3.0), ("ce_orig", 1.0), ("ce_zero", 9.0), ("kl", 1.5)):
        sums.add(name, torch.tensor([2]), torch.tensor([value]))
    low, high = intervals(sums)["kl"] or (0, 0)
    assert (low, high) == (0.5 / 3, 1.5 / 3), "drawn among the two that have predictions"
