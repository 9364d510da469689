"""L0, L1, density, dead and dense latents, and the histograms."""

from __future__ import annotations

import math

import pytest
import torch

from saescope.coders import Codes
from saescope.evaluation.documents import DocumentSums
from saescope.evaluation.firing import FiringSums
from saescope.evaluation.geometry import nearest_cosine
from saescope.evaluation.histogram import cosine_histogram, log10_density_histogram


def measured(dense: torch.Tensor, norms: torch.Tensor, cut: int | None = None) -> FiringSums:
    sums = FiringSums(norms, DocumentSums(1))
    for part in dense.split(cut or dense.shape[0]):
        sums.update(Codes.from_dense(part), torch.zeros(part.shape[0], dtype=torch.long))
    return sums


def test_known_codes() -> None:
    dense = torch.zeros(20, 4)
    dense[:, 0] = 2.0
    dense[:2, 1] = 3.0
    dense[0, 2] = 1.0
    found = measured(dense, torch.tensor([1.0, 2.0, 1.0, 1.0])).metrics()
    assert found["l0"] == pytest.approx(23 / 20)
    # Decoder row 1 has norm 2, so its activation of 3 counts as 6.
    assert found["l1"] == pytest.approx((20 * 2 + 2 * 6 + 1) / 20)
    assert found["dead_fraction"] == 0.25
    assert found["dense_10"] == 0.25


def test_exactly_a_tenth_is_not_dense() -> None:
    dense = torch.zeros(20, 1)
    dense[:2] = 1
    assert measured(dense, torch.ones(1)).metrics()["dense_10"] == 0


def test_all_dead() -> None:
    found = measured(torch.zeros(10, 5), torch.ones(5)).metrics()
    assert found == {"l0": 0, "l1": 0, "dead_fraction": 1, "dense_10": 0}


def test_an_entry_of_value_zero_has_not_fired() -> None:
    codes = Codes.from_dense(torch.ones(3, 2))
    sums = FiringSums(torch.ones(2), DocumentSums(1))
    sums.update(Codes(codes.support, torch.tensor([0.0, 1.0] * 3)), torch.zeros(3, dtype=torch.long))
    assert sums.counts.tolist() == [0, 3]


def test_rescaling_a_latent_against_its_decoder_row_changes_nothing() -> None:
    dense = torch.rand(30, 6).clamp(min=0.5) - 0.5
    scale = torch.tensor([1.0, 2, 3, 4, 5, 6])
    one, other = measured(dense, scale).metrics(), measured(dense * scale, torch.ones(6)).metrics()
    assert one == pytest.approx(other, rel=1e-6)


def test_batches_do_not_matter() -> None:
    dense = (torch.rand(57, 9, generator=torch.Generator().manual_seed(0)) - 0.7).clamp(min=0)
    whole, parts = measured(dense, torch.ones(9)), measured(dense, torch.ones(9), cut=10)
    assert whole.metrics() == pytest.approx(parts.metrics(), rel=1e-12)
    assert torch.equal(whole.counts, parts.counts)


def test_density_histogram_places_powers_of_ten_at_their_edges() -> None:
    histogram = log10_density_histogram(torch.tensor([0.0, 1e-2, 1e-2, 1e-1, 1.0, 1e-9], dtype=torch.float64))
    assert histogram.absent == 1
    assert sum(histogram.counts) == 5
    by_edge = dict(zip(histogram.edges, histogram.counts, strict=False))
    assert by_edge[-2.0] == 2
    assert by_edge[-1.0] == 1
    assert histogram.counts[0] == 1
    assert histogram.counts[-1] == 1


def test_nearest_cosine_finds_the_duplicate_not_itself() -> None:
    W_dec = torch.eye(5)[:4] * torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    W_dec[3] = 0.5 * W_dec[0] + 0.5 * torch.eye(5)[4]
    angle = 1 / math.sqrt(2)
    torch.testing.assert_close(nearest_cosine(W_dec), torch.tensor([angle, 0, 0, angle]))
    assert cosine_histogram(nearest_cosine(W_dec)).counts[50] == 2


def test_nearest_cosine_does_not_depend_on_its_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    W_dec = torch.randn(70, 8, generator=torch.Generator().manual_seed(0))
    whole = nearest_cosine(W_dec)
    monkeypatch.setattr("saescope.evaluation.geometry._CHUNK_ELEMENTS", 300)
    torch.testing.assert_close(nearest_cosine(W_dec), whole)
    assert nearest_cosine(W_dec, max_rows=7).numel() == 7


def test_a_zero_row_is_near_nothing() -> None:
    W_dec = torch.eye(3)
    W_dec[1] = 0
    assert nearest_cosine(W_dec).tolist() == [0, 0, 0]
