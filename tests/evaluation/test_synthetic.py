"""Generated activations are what their configuration says: rates, families, correlation, magnitudes, directions, order."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.evaluation.known import config, rows
from torch import Tensor

from saescope.activations import ActivationSource
from saescope.errors import UsageError
from saescope.evaluation.seeding import seeded
from saescope.evaluation.synthetic import (
    PRESETS,
    CorrelationConfig,
    GroundTruth,
    HierarchyConfig,
    MagnitudeConfig,
    SyntheticConfig,
    SyntheticStream,
    ToyConfig,
    ZipfRates,
    ground_truth,
    preset,
)
from saescope.evaluation.synthetic.directions import overlap, random_directions, spread_out
from saescope.evaluation.synthetic.hierarchy import _candidates, forest, wanted_rates

ZIPF = ZipfRates(exponent=0.7, highest=0.5, lowest=0.01)
FAMILIES = HierarchyConfig(roots=4, branching=3, depth=2, exclusive=1.0)


def firing(truth: GroundTruth, n: int = 40_000, seed: int = 0) -> Tensor:
    """bool [n, features]."""
    return torch.cat([sample.features.dense() > 0 for sample in rows(truth, n, seed)])


def far_from(measured: Tensor, expected: Tensor, n: int) -> Tensor:
    """In standard deviations of a share of `n` rows."""
    return (measured - expected).abs() / (expected * (1 - expected) / n).sqrt()


def test_zipf_rates_run_from_highest_to_lowest() -> None:
    rates = wanted_rates(ZIPF, 100)
    assert float(rates[0]) == pytest.approx(0.5)
    assert float(rates[-1]) == pytest.approx(0.01)
    # A power law but for the shift: differences fall as those of r^-.7.
    power = torch.arange(1, 101, dtype=torch.float64) ** -0.7
    torch.testing.assert_close(rates.diff() / rates.diff()[0], power.diff() / power.diff()[0])


@pytest.mark.parametrize("hierarchy", [None, FAMILIES, FAMILIES.model_copy(update={"exclusive": 0.0})])
def test_features_fire_as_often_as_they_should(hierarchy: HierarchyConfig | None) -> None:
    truth = GroundTruth.of(config(rates=ZIPF, hierarchy=hierarchy))
    n = 40_000
    measured = firing(truth, n).double().mean(0)
    # Of forty features at most one in a few runs is four deviations off; the seed is fixed.
    assert float(far_from(measured, truth.forest.rate, n).max()) < 4.0
    wanted = wanted_rates(ZIPF, 40)
    assert bool((truth.forest.rate <= wanted + 1e-12).all())
    if hierarchy is None:
        torch.testing.assert_close(truth.forest.rate, wanted)


@pytest.mark.parametrize("exclusive", [0.0, 1.0])
def test_children_need_their_parents_and_exclusive_ones_fire_alone(exclusive: float) -> None:
    truth = GroundTruth.of(
        config(
            rates=ZIPF,
            hierarchy=FAMILIES.model_copy(update={"exclusive": exclusive}),
            correlation=CorrelationConfig(rank=3, scale=0.3),
        )
    )
    fires, parent = firing(truth), truth.forest.parent
    children = (parent >= 0).nonzero()[:, 0]
    assert len(children) == 36
    assert not bool((fires[:, children] & ~fires[:, parent[children]]).any())
    together = [fires[:, family[family >= 0]].sum(1) for family in truth.forest.children]
    if exclusive:
        assert max(int(count.max()) for count in together) == 1
    else:
        assert max(int(count.max()) for count in together) > 1


def test_hierarchy_fills_features_in_order_of_rank() -> None:
    made = forest(HierarchyConfig(roots=2, branching=3, depth=2), wanted_rates(ZIPF, 12))
    assert made.parent.tolist() == [-1, -1, 0, 0, 0, 1, 1, 1, 2, 2, 2, 3]
    assert made.children[-1].tolist() == [11, -1, -1]
    assert made.family.tolist() == [0, 1, 2, 3, *[-1] * 8]
    # Features beyond the forest are free.
    free = forest(HierarchyConfig(roots=2, branching=3, depth=1), wanted_rates(ZIPF, 12))
    assert free.top.tolist() == [0, 1, 8, 9, 10, 11]


def test_candidates_win_as_often_as_wanted() -> None:
    """By enumeration of every set of candidates."""
    import numpy as np

    share = np.array([[0.4, 0.3, 0.2, 0.05], [0.1, 0.1, 0.0, 0.0], [0.94, 0.01, 0.01, 0.01]])
    c = _candidates(share)
    won = np.zeros_like(share)
    for chosen in itertools.product([0, 1], repeat=4):
        if sum(chosen):
            set_ = np.array(chosen)
            won += np.where(set_, c, 1 - c).prod(1, keepdims=True) * set_ / set_.sum()
    np.testing.assert_allclose(won, share, atol=1e-7)


def test_correlated_features_fire_together_as_the_copula_says() -> None:
    """Of two standard Gaussians with correlation ρ both are positive with probability 1/4 + arcsin(ρ)/2π (Sheppard, 1899)."""
    from dataclasses import replace

    truth = GroundTruth.of(config(n_features=4, rates=ZipfRates(exponent=0, highest=0.5, lowest=0.5)))
    truth = replace(truth, loadings=torch.tensor([[0.8, 0.0], [0.6, 0.6], [-0.8, 0.0], [0.0, 0.0]]))
    n = 60_000
    fires = firing(truth, n).double()
    both = fires.T @ fires / n
    for i, j in itertools.combinations(range(4), 2):
        rho = float(truth.loadings[i] @ truth.loadings[j])
        assert float(both[i, j]) == pytest.approx(0.25 + math.asin(rho) / (2 * math.pi), abs=4 * 0.5 / n**0.5)
    assert float(far_from(fires.mean(0), torch.full((4,), 0.5), n).max()) < 4.0


def test_loadings_have_the_scale_asked_for() -> None:
    truth = GroundTruth.of(config(n_features=2000, correlation=CorrelationConfig(rank=25, scale=0.1)))
    correlation = truth.loadings @ truth.loadings.T
    off = correlation[~torch.eye(2000, dtype=torch.bool)]
    assert float(off.std()) == pytest.approx(0.1**2 * 25**0.5, rel=0.05)
    assert float(truth.loadings.square().sum(1).max()) <= 0.99 + 1e-6


def test_rows_are_sums_of_directions() -> None:
    truth = GroundTruth.of(config(rates=ZIPF, hierarchy=FAMILIES))
    for sample in rows(truth, 5000):
        assert bool((sample.features.values > 0).all())
        torch.testing.assert_close(
            sample.x, sample.features.dense() @ truth.directions + truth.offset, rtol=1e-5, atol=1e-4
        )
        flat = sample.features.rows() * 40 + sample.features.indices
        assert bool((flat.diff() > 0).all())


def test_noise_is_added_to_every_dimension() -> None:
    truth = GroundTruth.of(config(noise=0.5))
    sample = rows(truth, 4096)[0]
    left = sample.x - sample.features.dense() @ truth.directions - truth.offset
    assert float(left.std()) == pytest.approx(0.5, rel=0.02)
    assert float(left.mean(0).abs().max()) < 0.05


def test_magnitudes_have_the_mean_and_spread_asked_for() -> None:
    truth = GroundTruth.of(config(magnitude=MagnitudeConfig(mean=5.0, mean_last=4.0, spread=0.5)))
    dense = torch.cat([sample.features.dense() for sample in rows(truth, 40_000)])
    for feature, mean in ((0, 5.0), (39, 4.0)):
        values = dense[:, feature][dense[:, feature] > 0]
        assert float(values.mean()) == pytest.approx(mean, abs=0.05)
        assert float(values.std()) == pytest.approx(0.5, abs=0.03)
    uniform = GroundTruth.of(config(magnitude=MagnitudeConfig(kind="uniform", mean=2.0)))
    values = torch.cat([sample.features.values for sample in rows(uniform, 10_000)])
    assert float(values.min()) > 0
    assert float(values.max()) < 4.0
    assert float(values.mean()) == pytest.approx(2.0, abs=0.05)


@pytest.mark.parametrize(("n", "d"), [(50, 20), (20, 20), (12, 20)])
def test_spread_out_directions_reach_the_welch_bound(n: int, d: int) -> None:
    drawn = random_directions(n, d, seeded(1))
    moved = spread_out(drawn, 300)
    torch.testing.assert_close(moved.norm(dim=1), torch.ones(n, dtype=torch.float64))
    bound = max(0.0, n * n / d - n)
    assert overlap(moved) == pytest.approx(bound, abs=1e-3)
    assert overlap(drawn) > bound + 1
    # They stay near where they were drawn.
    assert float((drawn * moved).sum(1).mean()) > 0.7
    assert torch.equal(spread_out(drawn, 0), drawn)


def toy(rate: float, n: int = 12, d: int = 4) -> GroundTruth:
    return GroundTruth.of(
        SyntheticConfig(
            n_features=n,
            d_in=d,
            rates=ZipfRates(exponent=0, highest=rate, lowest=rate),
            magnitude=MagnitudeConfig(kind="uniform", mean=0.5),
            toy=ToyConfig(steps=400, batch_size=512),
        )
    )


def test_toy_model_holds_more_sparse_features_than_dimensions() -> None:
    truth = toy(0.02)
    assert 4 < truth.n_features <= 12
    torch.testing.assert_close(truth.directions.norm(dim=1), torch.ones(truth.n_features))
    # Superposition that works: a feature's own read-out beats what any other active feature leaves on it.
    product = (truth.directions * truth.scale[:, None]) @ (truth.directions * truth.scale[:, None]).T
    own = product.diagonal()
    assert float((product - torch.diag(own)).max()) < 0.8 * float(own.min())
    sample = rows(truth, 1000)[0]
    assert float(sample.features.values.max()) <= float(truth.scale.max())


def test_sparser_features_are_superposed_more() -> None:
    """Elhage et al.'s measure: Σ‖W_i‖² counts the features held, d of them without superposition."""
    held = [float(toy(rate).scale.square().sum()) for rate in (0.99, 0.02)]
    assert held[1] > held[0] + 2
    assert held[1] > 2 * 4


def test_the_same_seed_gives_the_same_stream() -> None:
    truth = GroundTruth.of(config(rates=ZIPF, hierarchy=FAMILIES))
    stream = SyntheticStream(truth, tokens=5 * 64 + 3, batch_size=64, seed=3)
    assert isinstance(stream, ActivationSource)
    batches = list(stream)
    assert [tuple(batch.shape) for batch in batches] == [(64, 20)] * 5
    again = SyntheticStream(
        GroundTruth.of(config(rates=ZIPF, hierarchy=FAMILIES)), tokens=5 * 64 + 3, batch_size=64, seed=3
    )
    assert all(torch.equal(a, b) for a, b in zip(batches, again, strict=True))
    other = next(iter(SyntheticStream(truth, tokens=64, batch_size=64, seed=4)))
    assert not torch.equal(other, batches[0])
    assert not torch.equal(batches[0], batches[1])
    assert torch.equal(stream.sample(2).x, batches[2])


def test_a_stream_goes_on_where_it_was() -> None:
    truth = GroundTruth.of(config())
    whole = list(SyntheticStream(truth, tokens=640, batch_size=64))
    begun = SyntheticStream(truth, tokens=640, batch_size=64)
    for _, _ in zip(range(4), begun, strict=False):
        pass
    state = begun.state_dict()
    resumed = SyntheticStream(truth, tokens=640, batch_size=64)
    resumed.load_state_dict(state)
    rest = list(resumed)
    assert all(torch.equal(a, b) for a, b in zip(whole[int(state["step"]) :], rest, strict=True))
    with pytest.raises(Exception, match="another stream"):
        SyntheticStream(truth, tokens=640, batch_size=64, seed=1).load_state_dict(state)


def test_held_out_and_measured_rows_are_in_no_batch() -> None:
    truth = GroundTruth.of(config())
    stream = SyntheticStream(truth, tokens=4096, batch_size=1024)
    trained = {tuple(row) for batch in stream for row in batch[:, :3].tolist()}
    held_out = {tuple(row) for row in stream.held_out_rows(2000)[:, :3].tolist()}
    measured = {tuple(row) for part in stream.measured_rows(2000) for row in part.x[:, :3].tolist()}
    # Rows on which nothing fires are all alike.
    empty = {tuple(truth.offset[:3].tolist())}
    assert len(held_out) > 1500
    assert not (trained & held_out) - empty
    assert not (trained & measured) - empty
    assert not (held_out & measured) - empty
    assert stream.held_out_rows(0).shape == (0, 20)


def test_statistics_are_those_of_the_rows() -> None:
    truth = GroundTruth.of(config())
    stream = SyntheticStream(truth, tokens=4096, batch_size=1024)
    x = torch.cat([sample.x for sample in rows(truth, 40_000)]).double()
    found = stream.statistics()["synthetic.0"]
    torch.testing.assert_close(found.mean, x.mean(0), rtol=0, atol=0.05)
    assert found.mean_square_centered == pytest.approx(float(x.var(0).sum()), rel=0.03)


def test_memory_of_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut into pieces, a batch has the same rates and all its rows."""
    truth = GroundTruth.of(config(rates=ZIPF, hierarchy=FAMILIES))
    monkeypatch.setattr(ground_truth, "_CHUNK_ELEMENTS", 4 * 100)
    sample = truth.sample(4050, seeded(5))
    assert sample.x.shape == (4050, 20)
    measured = (sample.features.dense() > 0).double().mean(0)
    assert float(far_from(measured, truth.forest.rate, 4050).max()) < 4.0
    torch.testing.assert_close(
        sample.x, sample.features.dense() @ truth.directions + truth.offset, rtol=1e-5, atol=1e-4
    )


def test_16k_has_the_published_mean_number_of_features() -> None:
    """About 34 a row (Chanin & Garriga-Alonso, 2026)."""
    config = preset("16k").config.model_copy(update={"spreading": 0})
    truth = GroundTruth.of(config)
    assert float(truth.forest.rate.sum()) == pytest.approx(34, abs=0.5)
    sample = truth.sample(1024, seeded(0))
    assert sample.x.shape == (1024, 768)
    # Families and correlation shift single rates by little, and their sum by less.
    assert sample.features.nnz / 1024 == pytest.approx(float(truth.forest.rate.sum()), rel=0.05)


def test_presets_are_named_in_the_refusal() -> None:
    with pytest.raises(UsageError, match="toy, small, 16k; nearest: small"):
        preset("smal")
    assert set(PRESETS) == {"toy", "small", "16k"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_features": 0}, "n_features: input should be greater than 1"),
        ({"rates": {"highest": 0.1, "lowest": 0.2}}, "lowest 0.2 is more than highest 0.1"),
        ({"hierarchy": {"roots": 50}}, "50 roots are more than 40 features"),
        ({"toy": {}, "correlation": {}}, "independent features"),
        ({"magnitudes": {}}, "magnitudes: extra inputs"),
    ],
)
def test_impossible_configurations_are_refused_in_one_line(changes: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        SyntheticConfig.from_data(config().model_dump() | changes)


def test_a_stream_without_rows_is_refused() -> None:
    with pytest.raises(UsageError, match="less than one batch"):
        SyntheticStream(GroundTruth.of(config()), tokens=10, batch_size=64)
    with pytest.raises(UsageError, match="come from no text"):
        SyntheticStream(GroundTruth.of(config()), tokens=64, batch_size=64).with_labels()
