"""Reconstruction metrics where their values are known, and against broken coders."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.measured import D, coder_of, identity_coder, random_coder
from torch import Tensor

from saescope.coders import Slice
from saescope.errors import CoderError, ModelError
from saescope.evaluation.bootstrap import intervals
from saescope.evaluation.documents import DocumentSums
from saescope.evaluation.reconstruction import ReconstructionSums


def some_x(n: int = 200, d: int = D, seed: int = 0, mean: float = 3.0) -> Tensor:
    """Correlated activations far from zero, one dimension much larger than the rest."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator) @ torch.randn(d, d, generator=generator) * 0.3 + mean
    x[:, 0] *= 30
    return x


def measure(
    x: Tensor, x_hat: Tensor, splits: list[int] | None = None, shift: Tensor | None = None
) -> dict[str, float | None]:
    sums = ReconstructionSums(x.shape[1], DocumentSums(1), shift)
    sizes = splits or [x.shape[0]]
    for part, part_hat in zip(x.split(sizes), x_hat.split(sizes), strict=True):
        sums.update(part, part_hat, torch.zeros(part.shape[0], dtype=torch.long))
    return sums.metrics()


def test_perfect_reconstruction() -> None:
    x = some_x()
    found = measure(x, x)
    for name in ("mse", "mse_per_dim", "fvu_centered", "fvu_per_dim"):
        assert found[name] == 0
    for name in (
        "explained_variance",
        "cosine",
        "l2_ratio",
        "reconstruction_bias",
        "ev_batch_legacy",
        "ev_uncentered",
        "ev_dl",
    ):
        assert found[name] == pytest.approx(1, abs=1e-12), name


def test_the_mean_alone_explains_nothing_of_the_variance() -> None:
    x = some_x()
    found = measure(x, x.double().mean(0).expand_as(x))
    assert found["fvu_centered"] == pytest.approx(1, abs=1e-12)
    assert found["fvu_per_dim"] == pytest.approx(1, abs=1e-12)
    assert found["ev_dl"] == pytest.approx(0, abs=1e-12)
    # The uncentred convention calls the same reconstruction good.
    assert found["ev_uncentered"] is not None
    assert found["ev_uncentered"] > 0.5


def test_shrinkage_shows_in_bias_and_norm_ratio_not_in_cosine() -> None:
    x = some_x()
    found = measure(x, x / 2)
    assert found["reconstruction_bias"] == pytest.approx(0.5)
    assert found["l2_ratio"] == pytest.approx(0.5)
    assert found["cosine"] == pytest.approx(1)
    assert found["ev_uncentered"] == pytest.approx(0.75)
    assert found["fvu_centered"] is not None
    assert found["fvu_centered"] > 0.25


def test_a_constant_offset_is_invisible_to_ev_dl_only() -> None:
    x = some_x()
    found = measure(x, x + torch.linspace(-2, 5, D))
    assert found["ev_dl"] == pytest.approx(1, abs=1e-9)
    assert found["fvu_centered"] is not None
    assert found["fvu_centered"] > 0.01


def test_a_permuted_decoder_is_caught() -> None:
    x = some_x(mean=0.5)
    good = identity_coder()
    bad = coder_of(good.W_enc_rows.detach(), good.W_dec.detach()[torch.randperm(2 * D)])
    assert measure(x, good(x).detach())["fvu_centered"] == pytest.approx(0, abs=1e-12)
    found = measure(x, bad(x).detach())
    assert found["fvu_centered"] is not None
    assert found["cosine"] is not None
    assert found["fvu_centered"] > 0.8
    assert found["cosine"] < 0.6


def test_no_output_at_all() -> None:
    x = some_x()
    found = measure(x, torch.zeros_like(x))
    assert found["reconstruction_bias"] is None
    assert found["cosine"] == 0
    assert found["l2_ratio"] == 0
    assert found["ev_uncentered"] == pytest.approx(0, abs=1e-12)


def test_every_formula_written_out() -> None:
    x = some_x()
    x_hat = random_coder()(x).detach()
    found = measure(x, x_hat)
    x, x_hat = x.double(), x_hat.double()
    e, centred = x - x_hat, x - x.mean(0)
    expected = {
        "mse": e.square().sum(1).mean(),
        "mse_per_dim": e.square().mean(),
        "fvu_centered": e.square().sum() / centred.square().sum(),
        "fvu_per_dim": (e.square().sum(0) / centred.square().sum(0)).mean(),
        "cosine": torch.nn.functional.cosine_similarity(x, x_hat).mean(),
        "l2_ratio": (x_hat.norm(dim=1) / x.norm(dim=1)).mean(),
        "reconstruction_bias": x_hat.square().sum(1).mean() / (x * x_hat).sum(1).mean(),
        "ev_batch_legacy": (1 - e.square().sum(1) / centred.square().sum(1)).mean(),
        "ev_uncentered": 1 - e.square().sum() / x.square().sum(),
        "ev_dl": 1 - e.var(0).sum() / x.var(0).sum(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(float(value), rel=1e-10), name


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=12), st.integers(0, 10))
def test_how_the_text_is_cut_into_batches_changes_nothing(sizes: list[int], seed: int) -> None:
    x = some_x(sum(sizes), seed=seed)
    x_hat = random_coder()(x).detach()
    whole, parts = measure(x, x_hat), measure(x, x_hat, sizes)
    # The legacy convention is per batch by definition.
    for name in whole.keys() - {"ev_batch_legacy"}:
        if sum(sizes) > 1:
            assert parts[name] == pytest.approx(whole[name], rel=1e-9), name


def test_reconstructions_of_the_same_x_share_its_sums() -> None:
    """Vectors per document are the largest sums there are, and each row of a table would have its own."""
    x = some_x(60)
    document = torch.arange(60) % 5
    alone, owner, sharing = DocumentSums(5), DocumentSums(5), DocumentSums(5)
    rows = [ReconstructionSums(D, alone), ReconstructionSums(D, owner), ReconstructionSums(D, sharing, same_x=owner)]
    for part, where in zip(x.split(20), document.split(20), strict=True):
        for scale, row in zip((0.5, 0.9, 0.5), rows, strict=True):
            row.update(part, part * scale, where)
    assert sharing["moved"].data_ptr() == owner["moved"].data_ptr()
    assert torch.equal(sharing["moved"], alone["moved"])
    assert intervals(sharing, resamples=50) == intervals(alone, resamples=50)
    assert intervals(sharing, resamples=50) != intervals(owner, resamples=50)


def test_a_batch_without_spread_says_nothing_of_it() -> None:
    """One token, or equal ones, have no variance about their mean: a share of it would be minus infinity."""
    x = some_x(40)
    x_hat = random_coder()(x).detach()
    alone, with_one = measure(x, x_hat), measure(torch.cat([x, x[:3]]), torch.cat([x_hat, x_hat[:3]]), [40, 1, 1, 1])
    assert with_one["ev_batch_legacy"] == pytest.approx(alone["ev_batch_legacy"], rel=1e-12)
    equal = x[:1].expand(7, -1)
    assert measure(equal, equal / 2)["ev_batch_legacy"] is None


def test_spread_keeps_its_digits_far_from_zero() -> None:
    centred = torch.randn(4000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = centred + torch.tensor([1e7, -1e7, 1e6], dtype=torch.float64)
    sums = ReconstructionSums(3, DocumentSums(1))
    for part in x.split(500):
        sums.update(part, part, torch.zeros(500, dtype=torch.long))
    expected = (centred - centred.mean(0)).square().sum(0)
    torch.testing.assert_close(sums.spread, expected, rtol=1e-6, atol=0)


def test_any_shift_gives_the_same_spread() -> None:
    x = some_x()
    x_hat = random_coder()(x).detach()
    assert measure(x, x_hat, shift=torch.full((D,), 7.0))["fvu_centered"] == pytest.approx(
        measure(x, x_hat)["fvu_centered"]
    )


def test_a_dimension_that_never_varies_is_left_out_of_fvu_per_dim() -> None:
    x = some_x(d=4)
    x[:, 3] = 2.0
    x_hat = x.clone()
    x_hat[:, 0] = x[:, 0].mean()
    assert measure(x, x_hat)["fvu_per_dim"] == pytest.approx(1 / 3, rel=1e-5)


def test_per_document_sums_add_up_to_the_whole() -> None:
    x = some_x()
    x_hat = random_coder()(x).detach()
    document = torch.arange(x.shape[0]) % 7
    documents = DocumentSums(7)
    sums = ReconstructionSums(D, documents)
    sums.update(x, x_hat, document)
    assert float(documents["error2"].sum()) == pytest.approx(float(sums.error2.sum()))
    mine = (x - x_hat)[document == 3].double().square().sum()
    assert float(documents["error2"][3]) == pytest.approx(float(mine))


def test_several_written_points_have_their_own_fvu() -> None:
    x = some_x()
    x_hat = x.clone()
    x_hat[:, 10:] = x[:, 10:].mean(0)
    sums = ReconstructionSums(D, DocumentSums(1))
    sums.update(x, x_hat, torch.zeros(x.shape[0], dtype=torch.long))
    found = sums.metrics([Slice(point="a.1", width=10), Slice(point="b.1", width=D - 10)])
    assert found["fvu_centered.a.1"] == 0
    assert found["fvu_centered.b.1"] == pytest.approx(1, abs=1e-6)


def test_non_finite_numbers_are_named_for_what_they_are() -> None:
    x = some_x()
    bad = x.clone()
    bad[3, 3] = float("nan")
    with pytest.raises(ModelError, match="activations contain NaN"):
        measure(bad, x)
    with pytest.raises(CoderError, match="coder's output contains NaN"):
        measure(x, bad)
