"""Every recovery metric has its closed form, and each broken coder is caught by the metric that should."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from tests.evaluation.known import RATE, coder_with, config, random_units, rows, true_codes
from torch import Tensor

from saescope.coders import Codes
from saescope.errors import CoderError
from saescope.evaluation import matching
from saescope.evaluation.matching import nearest, pairing
from saescope.evaluation.synthetic import METRICS, GroundTruth, Recovery, Sample, chance, oracle, recovery

TRUTH = GroundTruth.of(config())
ROWS = rows(TRUTH)
X = torch.cat([sample.x for sample in ROWS]).double()
SIGNAL = X - TRUTH.offset
SPREAD = float((X - X.mean(0)).square().sum())
N = TRUTH.n_features
# Of every feature, the share of the measured rows on which it fires.
DENSITY = torch.bincount(torch.cat([sample.features.indices for sample in ROWS]), minlength=N).double() / len(X)


def measure(
    W_dec: Tensor = TRUTH.directions, b_dec: Tensor = TRUTH.offset, encode: Callable[[Sample], Codes] = true_codes
) -> Recovery:
    return recovery(coder_with(W_dec, b_dec), TRUTH, ROWS, encode=encode, resamples=50)


def derangement() -> Tensor:
    return torch.arange(N).roll(1)


def test_oracle_is_perfect() -> None:
    coder, encode = oracle(TRUTH)
    found = recovery(coder, TRUTH, ROWS, encode=encode, resamples=50)
    perfect = dict.fromkeys(METRICS, 1.0) | {"fvu_centered": 0.0, "dead_fraction": 0.0, "l0": float(DENSITY.sum())}
    assert found.metrics == pytest.approx(perfect, abs=1e-6)
    assert found.intervals["f1"] == pytest.approx((1.0, 1.0))


def test_oracle_with_fewer_latents_has_the_most_frequent_features() -> None:
    truth = GroundTruth.of(config(rates={"exponent": 1.0, "highest": 0.4, "lowest": 0.01}))
    coder, encode = oracle(truth, 10)
    found = recovery(coder, truth, rows(truth, 4096), encode=encode, resamples=50).metrics
    assert found["f1"] == found["uniqueness"] == 1.0
    assert found["mcc"] == pytest.approx(1.0)
    assert found["mmcs_features_to_latents"] < 0.9
    assert torch.equal(coder.W_dec, truth.directions[:10])
    # What it leaves out is exactly the other features' part.
    expected = sum((s.x - truth.offset - s.features.dense()[:, :10] @ truth.directions[:10]).double().square().sum()
                   for s in rows(truth, 4096))  # fmt: skip
    x = torch.cat([s.x for s in rows(truth, 4096)]).double()
    assert found["fvu_centered"] == pytest.approx(float(expected / (x - x.mean(0)).square().sum()), rel=1e-5)


# Of a coder that differs from the truth in one respect: what each metric must then be, and why.
def permuted() -> tuple[Recovery, dict[str, float]]:
    """Right directions on the wrong latents: independent features of rates p and q agree with F1 2pq/(p + q)."""
    p, q = DENSITY, DENSITY[derangement()]
    expected = {
        "f1": float((2 * p * q / (p + q)).mean()),
        "precision": RATE,
        "recall": RATE,
        "mcc": 1.0,
        "uniqueness": 1.0,
    }
    return measure(TRUTH.directions[derangement()]), expected


def halved() -> tuple[Recovery, dict[str, float]]:
    """x̂ = b + signal/2."""
    fvu = 0.25 * float(SIGNAL.square().sum()) / SPREAD
    expected = {"f1": 1.0, "mcc": 1.0, "fvu_centered": fvu, "explained_variance": 1 - fvu}
    return measure(TRUTH.directions / 2), expected


def offset() -> tuple[Recovery, dict[str, float]]:
    """A constant error c: FVU n‖c‖²/Σ‖x - x̄‖²."""
    c = torch.ones(20)
    return measure(b_dec=TRUTH.offset + c), {"f1": 1.0, "mcc": 1.0, "fvu_centered": len(X) * 20 / SPREAD}


def dead() -> tuple[Recovery, dict[str, float]]:
    """Right directions, nothing fires; x̂ = b."""
    silent = measure(encode=lambda sample: Codes.from_dense(torch.zeros(len(sample.x), N)))
    fvu = float(SIGNAL.square().sum()) / SPREAD
    return silent, {
        "f1": 0.0,
        "precision": 0.0,
        "recall": 0.0,
        "dead_fraction": 1.0,
        "l0": 0.0,
        "fvu_centered": fvu,
        "mcc": 1.0,
    }


def always() -> tuple[Recovery, dict[str, float]]:
    """Every latent on every row: precision p, recall 1, F1 2p/(1 + p)."""
    found = measure(encode=lambda sample: Codes.from_dense(torch.ones(len(sample.x), N)))
    f1 = float((2 * DENSITY / (1 + DENSITY)).mean())
    return found, {"f1": f1, "precision": float(DENSITY.mean()), "recall": 1.0, "l0": N, "mcc": 1.0}


def flipped() -> tuple[Recovery, dict[str, float]]:
    """Latents that point away: |cosine| is blind to it, signed cosines are not."""
    best = nearest(-TRUTH.directions, TRUTH.directions).cosine
    return measure(-TRUTH.directions), {"mcc": 1.0, "mmcs_latents_to_features": float(best.mean())}


def doubled() -> tuple[Recovery, dict[str, float]]:
    """Half of the features, each by two latents that fire together."""
    half = torch.arange(N) // 2
    found = measure(TRUTH.directions[half], encode=lambda sample: Codes.from_dense(sample.features.dense()[:, half]))
    to_latents = nearest(TRUTH.directions, TRUTH.directions[: N // 2]).cosine
    return found, {
        "f1": 1.0,
        "uniqueness": 0.5,
        "mmcs_latents_to_features": 1.0,
        "mmcs_features_to_latents": float(to_latents.mean()),
        "dead_fraction": 0.0,
    }


BROKEN = [permuted, halved, offset, dead, always, flipped, doubled]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda made: made.__name__)
def test_broken_coder_scores_as_derived(broken: Callable[[], tuple[Recovery, dict[str, float]]]) -> None:
    found, expected = broken()
    # Where firings are independent only on average, twenty thousand rows leave this much.
    tolerance = 0.01 if broken is permuted else 1e-5
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, abs=tolerance)


def test_every_metric_has_a_closed_form() -> None:
    assert set().union(*(broken()[1] for broken in BROKEN)) == set(METRICS)


def test_permuted_and_flipped_decoders_collapse_f1_alone() -> None:
    for broken in (permuted, flipped):
        found = broken()[0].metrics
        assert found["mcc"] == pytest.approx(1.0)
        assert found["f1"] < 2.5 * RATE


def test_random_coder_is_at_chance() -> None:
    """MCC of one random coder lies among those of other random directions; F1 is near that of unrelated latents."""
    x = ROWS[0].x
    coder = chance(TRUTH, N, 4.0, x)
    found = recovery(coder, TRUTH, ROWS, resamples=50).metrics
    others = [
        float(pairing(random_units(N, 20, seed), TRUTH.directions, absolute=True).cosine.mean()) for seed in range(20)
    ]
    assert min(others) - 0.02 < found["mcc"] < max(others) + 0.02
    assert found["l0"] == pytest.approx(4.0, abs=0.3)
    # A best cosine of one half lets a random latent see something of its feature; far from knowing it.
    assert RATE < found["f1"] < 0.45


def test_a_half_found_dictionary_scores_between() -> None:
    """Half right, half random: MCC is at least the mean of both halves', and f1 exactly the right ones' share and more."""
    mixed = torch.cat([TRUTH.directions[:20], random_units(20, 20, 5)])
    found = measure(mixed)
    assert float(found.f1_by_latent[:20].min()) == 1.0
    assert 0.5 + 0.5 * RATE / 2 < found.metrics["f1"] < 0.75
    assert 0.6 < found.metrics["mcc"] < 0.95
    low, high = found.intervals["f1"]
    assert low < found.metrics["f1"] < high


def test_chunks_and_batches_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    coder = coder_with(random_units(30, 20, 1), TRUTH.offset)
    whole = recovery(coder, TRUTH, ROWS, resamples=50)
    monkeypatch.setattr(matching, "_CHUNK_ELEMENTS", 70)
    parts = [
        Sample(sample.x[start : start + 1000], Codes.from_dense(sample.features.dense()[start : start + 1000]))
        for sample in ROWS
        for start in range(0, len(sample.x), 1000)
    ]
    again = recovery(coder, TRUTH, parts, resamples=50)
    assert again.metrics == pytest.approx(whole.metrics, rel=1e-6)
    assert torch.equal(again.f1_by_latent, whole.f1_by_latent)


@pytest.mark.parametrize(("n", "m"), [(5, 5), (4, 6), (6, 4)])
@pytest.mark.parametrize("absolute", [False, True])
def test_pairing_is_the_best_of_all(n: int, m: int, absolute: bool) -> None:
    a, b = random_units(n, 3, 1), random_units(m, 3, 2)
    cosines = (a @ b.T).abs() if absolute else a @ b.T
    if n > m:
        best = max(float(cosines[list(p), range(m)].sum()) for p in itertools.permutations(range(n), m))
    else:
        best = max(float(cosines[range(n), list(p)].sum()) for p in itertools.permutations(range(m), n))
    found = pairing(a, b, absolute=absolute)
    assert float(found.cosine.sum()) == pytest.approx(best, abs=1e-6)
    torch.testing.assert_close(cosines[found.left, found.right].double(), found.cosine)
    assert found.left.tolist() == sorted(set(found.left.tolist()))
    assert len(set(found.right.tolist())) == min(n, m)


def test_damaged_decoder_is_refused() -> None:
    with pytest.raises(CoderError, match="NaN"):
        measure(TRUTH.directions * float("nan"))


def test_zero_rows_match_nothing() -> None:
    W_dec = TRUTH.directions.clone()
    W_dec[0] = 0
    assert float(nearest(W_dec, TRUTH.directions).cosine[0]) == 0.0
    assert float(pairing(W_dec, TRUTH.directions).cosine[0]) == 0.0
