"""Splits, probes and their qualities, on features whose answer is known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, roc_auc_score

from saescope.evaluation.probing.logistic import fit_logistic
from saescope.evaluation.probing.probe import C_GRID, dense_probe, sparse_probes
from saescope.evaluation.probing.quality import Resamples, mean_over, qualities, resampled_groups
from saescope.evaluation.probing.task import Candidates, Task, split

KS = (1, 2, 5, 20)


def candidates(label: np.ndarray, group: np.ndarray, test: np.ndarray | None = None) -> Candidates:
    return Candidates("task", "made", "text", np.arange(len(label)), label, group, test)


def task_of(label: np.ndarray, group: np.ndarray, test: np.ndarray | None = None, **options: int) -> Task:
    found = split(candidates(label, group, test), **{"seed": 0, "most": 10_000, **options})
    assert isinstance(found, Task), found
    return found


def noise(n: int, d: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, d))


def labels(n: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < 0.5


def accuracy(found: Any, task: Task) -> float:
    value = qualities(found.score, task.label[task.test], None)["accuracy"].value
    assert value is not None
    return value


# Splits


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_on_both_sides_or_in_two_folds_and_labels_are_equally_many(seed: int) -> None:
    rng = np.random.default_rng(seed)
    group = rng.integers(40, size=700)
    label = rng.random(700) < rng.random(40)[group]
    task = task_of(label, group, seed=seed)
    sides = [task.test, *(task.fold == number for number in range(3))]
    assert np.array_equal(np.sum(sides, axis=0), np.ones(len(task.label)))
    for one in range(4):
        for other in range(one):
            assert not set(task.group[sides[one]]) & set(task.group[sides[other]])
    for side in (task.test, ~task.test):
        assert 2 * int(task.label[side].sum()) == int(side.sum())
    assert np.array_equal(task.label, label[task.example])
    assert np.array_equal(task.group, group[task.example])
    assert 0.2 < task.test.mean() < 0.47


def test_a_split_that_came_with_the_data_is_kept_and_shared_groups_leave_training() -> None:
    label, test = labels(300), np.arange(300) >= 200
    group = np.arange(300)
    group[250] = group[10]
    task = task_of(label, group, test)
    assert np.array_equal(task.test, test[task.example])
    assert 10 not in task.example or 250 not in task.example
    assert not set(task.group[task.test]) & set(task.group[~task.test])


def test_a_long_document_does_not_fill_a_task() -> None:
    group = np.r_[np.zeros(5000, dtype=int), np.repeat(np.arange(1, 50), 40)]
    task = task_of(labels(len(group)), group, most=800)
    share = np.bincount(task.group).max() / len(task.group)
    assert len(task.label) > 700
    assert share < 0.06


@pytest.mark.parametrize(
    ("n", "n_groups", "share", "reason"),
    [(200, 200, 1.1, "one label"), (10, 10, 0.5, "are needed"), (100, 2, 0.5, "too few to split")],
)
def test_what_cannot_be_split_says_why(n: int, n_groups: int, share: float, reason: str) -> None:
    label = np.arange(n) % 10 < 10 * share
    found = split(candidates(label, np.arange(n) % n_groups), seed=0, most=1000)
    assert isinstance(found, str)
    assert reason in found


# Probes


@pytest.mark.parametrize("d", [1, 5, 20, 80])
def test_regressions_are_scikit_learns(d: int) -> None:
    rng = np.random.default_rng(d)
    x, label = rng.standard_normal((150, d)), rng.random(150) < 0.3
    x[:, 0] += 2 * label
    weights, biases = fit_logistic(x, label, C_GRID)
    for C, weight, bias in zip(C_GRID, weights, biases, strict=True):
        expected = LogisticRegression(C=C, class_weight="balanced", tol=1e-10, max_iter=5000).fit(x, label)
        np.testing.assert_allclose(weight, expected.coef_[0], atol=2e-2 if d == 80 else 1e-6)
        np.testing.assert_allclose(bias, expected.intercept_[0], atol=2e-2 if d == 80 else 1e-6)


def test_labels_that_a_plane_parts_have_a_finite_regression() -> None:
    label = labels(100)
    for scale in (1e-3, 1.0, 1e3):
        weights, biases = fit_logistic(scale * np.where(label, 1.0, -1.0)[:, None], label, [1e-3, 1.0, 1e3])
        assert np.isfinite(weights).all()
        assert np.isfinite(biases).all()
        assert (weights > 0).all()


@pytest.mark.parametrize("sparse", [False, True])
def test_a_feature_that_is_the_label_is_found_and_tells_all(sparse: bool) -> None:
    label = labels(400)
    features = np.maximum(noise(400, 60), 0)
    features[:, 17] = 3.0 * label
    task = task_of(label, np.arange(400) % 50)
    own = features[task.example]
    found = sparse_probes(scipy.sparse.csr_matrix(own) if sparse else own, task, KS)
    for k, probe in found.items():
        assert probe.features[0] == 17
        assert len(probe.features) == k
        assert accuracy(probe, task) == 1.0
    assert accuracy(dense_probe(own, task), task) == 1.0


def test_sparse_and_dense_features_give_the_same_probes() -> None:
    label = labels(300)
    features = np.maximum(noise(300, 40) + 0.5 * label[:, None] * (np.arange(40) < 3), 0)
    task = task_of(label, np.arange(300))
    own = features[task.example]
    for selection in ("difference", "standardised"):
        dense = sparse_probes(own, task, KS, selection=selection)
        sparse = sparse_probes(scipy.sparse.csr_matrix(own), task, KS, selection=selection)
        for k in KS:
            assert dense[k].features == sparse[k].features
            assert dense[k].C == sparse[k].C
            np.testing.assert_allclose(dense[k].score, sparse[k].score, atol=1e-9)


def test_a_label_that_features_know_nothing_of_gives_chance_within_its_interval() -> None:
    values, covered = [], 0
    for seed in range(20):
        label, group = labels(400, seed), np.arange(400) // 4
        task = task_of(label, group, seed=seed)
        probe = sparse_probes(noise(len(task.label), 200, seed + 100), task, (20,))[20]
        weights = resampled_groups(task.group[task.test], 400, np.random.default_rng(seed))
        found = qualities(probe.score, task.label[task.test], weights)["accuracy"]
        assert found.value is not None
        assert found.interval is not None
        values.append(found.value)
        covered += found.interval[0] <= 0.5 <= found.interval[1]
    assert abs(np.mean(values) - 0.5) < 0.03
    # 95 % of 20 are 19; that 15 or fewer are has a chance of .3 %.
    assert covered >= 16


def test_a_group_learnt_by_heart_scores_all_where_examples_are_split_and_chance_where_groups_are() -> None:
    group = np.repeat(np.arange(40), 10)
    label = group % 2 == 0
    features = np.eye(40)[group]
    leaking = task_of(label, np.arange(400))
    assert accuracy(dense_probe(features[leaking.example], leaking), leaking) == 1.0
    assert accuracy(sparse_probes(features[leaking.example], leaking, (40,))[40], leaking) == 1.0
    grouped = task_of(label, group)
    # No test group was seen, so every test example looks the same.
    assert accuracy(dense_probe(features[grouped.example], grouped), grouped) == 0.5
    assert accuracy(sparse_probes(features[grouped.example], grouped, (40,))[40], grouped) == 0.5


def test_features_and_penalty_are_chosen_on_training_examples_alone() -> None:
    label = labels(400)
    task = task_of(label, np.arange(400))
    features = noise(len(task.label), 30)
    features[:, 4] += 0.8 * task.label
    features[:, 9] = np.where(task.test, 10.0 * task.label, features[:, 9])
    found = sparse_probes(features, task, (1, 5))
    assert found[1].features == [4]
    # Whatever the test examples are, the same probe comes out.
    other = np.where(task.test[:, None], 100 * noise(len(task.label), 30, 5), features)
    changed = sparse_probes(other, replace(task, label=np.where(task.test, ~task.label, task.label)), (1, 5))
    for k in (1, 5):
        assert changed[k].features == found[k].features
        assert changed[k].C == found[k].C
    assert dense_probe(features, task).C == dense_probe(other, task).C


def test_inner_folds_choose_their_own_features() -> None:
    """Chosen once for all folds, noise features would seem to tell the labels apart, and the weakest penalty would win."""
    chosen = []
    for seed in range(8):
        label = labels(120, seed)
        task = task_of(label, np.arange(120), seed=seed)
        chosen.append(sparse_probes(noise(len(task.label), 3000, seed), task, (20,))[20].C)
    assert np.mean(np.array(chosen) <= C_GRID[1]) > 0.8


def test_constant_features_give_chance() -> None:
    label = labels(200)
    task = task_of(label, np.arange(200))
    dead = scipy.sparse.csr_matrix((len(task.label), 50))
    for probe in sparse_probes(dead, task, KS).values():
        found = qualities(probe.score, task.label[task.test], None)
        assert found["accuracy"].value == found["auc"].value == 0.5


def test_more_latents_than_there_are_is_all_of_them() -> None:
    label = labels(200)
    task = task_of(label, np.arange(200))
    assert len(sparse_probes(noise(len(task.label), 3), task, KS)[20].features) == 3


def test_the_scale_of_features_changes_which_are_chosen_only_without_standardising() -> None:
    label = labels(600)
    task = task_of(label, np.arange(600))
    features = noise(len(task.label), 20)
    features[:, 2] += 2 * task.label
    # A huge dimension that knows little moves further than one that knows much.
    features[:, 7] = 100 * (features[:, 7] + 0.2 * task.label)
    assert sparse_probes(features, task, (1,))[1].features == [7]
    assert sparse_probes(features, task, (1,), selection="standardised")[1].features == [2]


# Qualities


def test_qualities_are_the_usual_ones_on_balanced_examples() -> None:
    rng = np.random.default_rng(0)
    label = np.arange(200) % 2 == 0
    # Ties, as latents that are mostly zero have.
    score = np.round(rng.standard_normal(200) + label, 0) - 0.25
    found = qualities(score, label, None)
    assert found["accuracy"].value == pytest.approx(accuracy_score(label, score > 0), abs=1e-12)
    assert found["f1"].value == pytest.approx(f1_score(label, score > 0), abs=1e-12)
    assert found["auc"].value == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_a_group_drawn_twice_is_there_twice() -> None:
    rng = np.random.default_rng(0)
    label, score, group = labels(60), np.round(rng.standard_normal(60), 1), rng.integers(12, size=60)
    times = rng.integers(4, size=12)
    drawn = qualities(score, label, Resamples(group, np.stack([times] * 2).astype(float)))
    again = qualities(np.repeat(score, times[group]), np.repeat(label, times[group]), None)
    for name, estimate in drawn.items():
        assert estimate.interval is not None
        assert estimate.interval == pytest.approx((again[name].value,) * 2, abs=1e-12)


def test_as_many_groups_are_drawn_as_there_are() -> None:
    drawn = resampled_groups(np.array([5, 5, 9, 2]), 2000, np.random.default_rng(0))
    assert drawn is not None
    assert (drawn.counts.sum(1) == 3).all()
    np.testing.assert_allclose(drawn.counts.mean(0), 1, atol=0.07)
    assert drawn.group.tolist() == [1, 1, 2, 0]


def test_copies_within_groups_do_not_narrow_an_interval() -> None:
    rng = np.random.default_rng(0)
    label, score, group = labels(100), rng.standard_normal(100) + 0.5 * labels(100), np.arange(100)

    def interval(times: int, grouped: bool) -> tuple[float, float]:
        owner = np.repeat(group, times) if grouped else np.arange(100 * times)
        weights = resampled_groups(owner, 500, np.random.default_rng(3))
        found = qualities(np.repeat(score, times), np.repeat(label, times), weights)["auc"].interval
        assert found is not None
        return found

    once, copied, pretended = interval(1, True), interval(16, True), interval(16, False)
    assert copied == pytest.approx(once, abs=1e-12)
    assert pretended[1] - pretended[0] < 0.4 * (once[1] - once[0])


def test_a_single_group_has_no_interval() -> None:
    assert resampled_groups(np.zeros(10, dtype=int), 10, np.random.default_rng(0)) is None


def test_the_interval_of_a_mean_is_over_its_values() -> None:
    values = np.random.default_rng(0).standard_normal(50).tolist()
    found = mean_over(values, 4000, 0)
    assert found.value == pytest.approx(np.mean(values))
    assert found.interval is not None
    expected = 1.96 * np.std(values) / np.sqrt(50)
    assert (found.interval[1] - found.interval[0]) / 2 == pytest.approx(expected, rel=0.1)
    assert mean_over([0.7], 10, 0).interval is None
    assert mean_over([], 10, 0).value is None
