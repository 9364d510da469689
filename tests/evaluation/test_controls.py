"""The controls do what their definitions say."""

from __future__ import annotations

import pytest
import torch
from tests.measured import POINT, D, coder_of, random_coder
from torch import Tensor

from saescope.evaluation.controls import Absent, Coded, OwnBasis, Projection, frozen_random, neurons, pca
from saescope.evaluation.subject import Subject


def some_x(n: int = 600) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, D, generator=generator) @ torch.randn(D, D, generator=generator) + 4.0


def reference(x: Tensor, most: int = D) -> dict[str, Tensor]:
    mean = x.mean(0)
    _, vectors = torch.linalg.eigh((x - mean).T @ (x - mean))
    return {f"mean.{POINT}": mean, f"components.{POINT}": vectors.T.flip(0)[:most].contiguous()}


@pytest.mark.parametrize("l0", [0.5, 3.0, 11.25])
def test_random_control_has_the_coders_l0(l0: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saescope.evaluation.controls._CHUNK_ELEMENTS", 60 * 100)
    x = some_x()
    control = frozen_random(Subject(random_coder(), reference(x)), x, l0)
    assert isinstance(control, Coded)
    codes = control.reconstruct(x, x).codes
    assert codes is not None
    assert codes.nnz / x.shape[0] == pytest.approx(l0, abs=2 / x.shape[0])


def test_random_control_is_untrained_tied_and_about_the_training_mean() -> None:
    x = some_x()
    control = frozen_random(Subject(random_coder(), reference(x)), x, 5.0)
    assert isinstance(control, Coded)
    coder = control.coder
    torch.testing.assert_close(coder.W_enc_rows.norm(dim=1), torch.ones(60))
    torch.testing.assert_close(coder.W_dec, coder.W_enc_rows * control.facts["scale"])
    torch.testing.assert_close(coder.b_dec.detach(), x.mean(0))
    assert not torch.allclose(coder.W_enc_rows, random_coder().W_enc_rows)
    other = frozen_random(Subject(random_coder(), reference(x)), x, 5.0, seed=1)
    assert isinstance(other, Coded)
    assert not torch.allclose(coder.W_enc_rows, other.coder.W_enc_rows)


def test_no_other_scale_of_the_random_control_is_better() -> None:
    x = some_x()
    control = frozen_random(Subject(random_coder(), reference(x)), x, 5.0)
    assert isinstance(control, Coded)
    mean = x.mean(0)
    part = control.reconstruct(x, x).x_hat - mean

    def error(factor: float) -> float:
        return float((x - mean - factor * part).double().square().sum())

    assert error(1.0) < min(error(0.99), error(1.01))


def test_random_control_without_a_reference_says_whose_mean_it_took() -> None:
    x = some_x()
    control = frozen_random(Subject(random_coder()), x, 5.0)
    assert isinstance(control, Coded)
    assert control.facts["mean"] == "sample of the evaluation set"


def test_principal_components_lose_exactly_the_trailing_variance() -> None:
    x = some_x()
    control = pca(Subject(random_coder(), reference(x)), 6.4)
    assert isinstance(control, Projection)
    assert control.facts["k"] == 6
    lost = (x - control.reconstruct(x, x).x_hat).square().sum()
    eigenvalues = torch.linalg.eigvalsh((x - x.mean(0)).T @ (x - x.mean(0)))
    assert float(lost) == pytest.approx(float(eigenvalues[: D - 6].sum()), rel=1e-3)


def test_all_components_lose_nothing() -> None:
    x = some_x()
    control = pca(Subject(random_coder(), reference(x)), float(D))
    assert isinstance(control, Projection)
    torch.testing.assert_close(control.reconstruct(x, x).x_hat, x, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("k", [1, 7, D])
def test_the_models_own_basis_loses_exactly_the_smallest_squares(k: int) -> None:
    x = some_x()
    control = neurons(Subject(random_coder(), reference(x)), x, k + 0.4)
    assert isinstance(control, OwnBasis)
    assert control.facts["k"] == k
    lost = (x - control.reconstruct(x, x).x_hat).square().sum()
    squares = (x - x.mean(0)).square().sort(dim=1).values
    assert float(lost) == pytest.approx(float(squares[:, : D - k].sum()), rel=1e-4, abs=1e-4)


def test_the_models_own_basis_is_absent_where_it_means_nothing() -> None:
    x = some_x()
    for l0 in (0.2, D + 1.0):
        assert isinstance(neurons(Subject(random_coder()), x, l0), Absent)
    weights = torch.randn(30, D)
    transcoder = Subject(coder_of(weights, weights, reads="mlp_in.1", writes="mlp_out.1"))
    assert isinstance(neurons(transcoder, x, 5.0), Absent)
    alone = neurons(Subject(random_coder()), x, 5.0)
    assert isinstance(alone, OwnBasis)
    assert alone.facts["mean"] == "sample of the evaluation set"


def test_what_cannot_be_measured_is_absent_with_its_reason() -> None:
    x = some_x()
    missing = pca(Subject(random_coder()), 5.0)
    assert isinstance(missing, Absent)
    assert "without mean and principal components" in missing.reason
    few = pca(Subject(random_coder(), reference(x, most=4)), 5.0)
    assert isinstance(few, Absent)
    assert "4 principal components" in few.reason
    weights = torch.randn(30, D)
    transcoder = Subject(coder_of(weights, weights, reads="mlp_in.1", writes="mlp_out.1"))
    assert isinstance(frozen_random(transcoder, x, 5.0), Absent)
