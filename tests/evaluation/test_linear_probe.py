"""Probes are the logistic regressions they say they are, thresholds the best, resamples true to their classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from tests.measured import random_coder

from saescope.evaluation.code_matrix import code_matrix, dense_columns, firing
from saescope.evaluation.linear_probe import LinearProbes, best_threshold, f1, fit_probes, sparse_scores
from saescope.evaluation.resampling import class_resamples, percentiles


def overlapping(n: int = 400, d: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.randint(3, (n,), generator=generator)
    x = 2.5 * torch.randn(n, d, generator=generator) + 3.0
    x[torch.arange(n), label] += 3.0
    return x, label[:, None] == torch.arange(3)


def test_fitted_probes_are_balanced_logistic_regressions() -> None:
    x, member = overlapping()
    penalty = 1e-3
    found = fit_probes(x, member, penalty=penalty)
    scale = float((x - x.mean(0)).square().mean().sqrt())
    z = ((x - x.mean(0)) / scale).numpy()
    for c in range(3):
        # sklearn weighs both classes to n / 2 each and sums: its C times that penalty is ours.
        reference = LogisticRegression(C=1 / (2 * penalty * len(z)), class_weight="balanced", max_iter=1000, tol=1e-8)
        reference.fit(z, member[:, c].numpy())
        expected = reference.decision_function(z)
        np.testing.assert_allclose(found.scores(x)[:, c].numpy(), expected, atol=0.02 * np.abs(expected).max())


def test_sparse_probes_are_logistic_regressions_of_each_choice() -> None:
    x, member = overlapping()
    trials = torch.stack([x[:, [0, 1]], x[:, [0, 4]]])
    weight, scores = sparse_scores(trials, member[:, 0])
    for trial, of in zip(trials, weight, strict=True):
        spread = trial.std(0, correction=0)
        reference = LogisticRegression(C=1 / (2e-3 * len(x)), class_weight="balanced", tol=1e-10)
        reference.fit((trial / spread).numpy(), member[:, 0].numpy())
        torch.testing.assert_close(of * spread, torch.from_numpy(reference.coef_[0]).float(), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(scores[1], trials[1] @ weight[1])


def test_classes_that_separate_give_finite_weights() -> None:
    member = torch.arange(50) < 5
    weight, scores = sparse_scores(member.float()[None, :, None] * 100, member)
    assert bool(weight.isfinite().all())
    assert best_threshold(scores[0], member)[1] == 1.0


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=20))
def test_no_other_threshold_is_better(drawn: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([float(score) for score, _ in drawn])
    member = torch.tensor([of for _, of in drawn])
    threshold, best = best_threshold(scores, member)

    def at(cut: float) -> float:
        return float(f1((scores > cut)[:, None], member[:, None], torch.ones(1, len(drawn)))[0, 0])

    assert at(threshold) == pytest.approx(best)
    assert best == pytest.approx(max(at(cut - 0.5) for cut in range(7)))


def test_f1_counts_each_example_as_often_as_drawn() -> None:
    predicted, member = torch.tensor([1, 1, 0, 0]).bool()[:, None], torch.tensor([1, 0, 1, 0]).bool()[:, None]
    weight = torch.tensor([[1.0, 1, 1, 1], [3, 0, 1, 5], [0, 0, 0, 1]])
    assert f1(predicted, member, weight)[:, 0].tolist() == pytest.approx([2 / 4, 6 / 7, 0.0])


def test_best_f1_moves_thresholds_only() -> None:
    x, member = overlapping()
    probes = fit_probes(x, member)
    better = probes.with_best_f1(x, member)
    assert torch.equal(better.weight, probes.weight)
    ones = torch.ones(1, len(x))
    assert bool((f1(better.scores(x) > 0, member, ones) >= f1(probes.scores(x) > 0, member, ones)).all())
    torch.testing.assert_close(LinearProbes(probes.weight * 5, probes.threshold).unit.norm(dim=0), torch.ones(3))


def test_resamples_keep_every_class_at_its_size() -> None:
    group = torch.tensor([0] * 5 + [1] * 2 + [4])
    times = class_resamples(group, 200, seed=0)
    for label in (0, 1, 4):
        assert bool((times[:, group == label].sum(1) == (group == label).sum()).all())
    assert times[:, :5].std() > 0.5
    assert torch.equal(times, class_resamples(group, 200, seed=0))


def test_percentiles_leave_out_what_no_resample_gave() -> None:
    assert percentiles(torch.tensor([torch.nan, 1.0])) is None
    assert percentiles(torch.cat([torch.linspace(0, 1, 101), torch.tensor([torch.nan])])) == pytest.approx(
        (0.025, 0.975)
    )


def test_code_matrix_is_the_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saescope.evaluation.code_matrix._CHUNK_ROWS", 7)
    coder = random_coder()
    x = torch.randn(20, coder.d_in, generator=torch.Generator().manual_seed(1))
    found = code_matrix(coder, x)
    dense = coder.encode(x).dense().detach()
    assert isinstance(found, sparse.csr_matrix)
    torch.testing.assert_close(torch.from_numpy(found.toarray()), dense)
    torch.testing.assert_close(dense_columns(found, [3, 1]), dense[:, [3, 1]])
    assert np.array_equal(firing(found).toarray(), (dense != 0).numpy())
