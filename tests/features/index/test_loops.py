"""The index's loops by themselves: the order of values, and who fires with whom in narrow and wide arrays."""

from __future__ import annotations

import numpy as np
import pytest

from saescope.features.index.loops import choose_examples, coactive_range, strongest_first


@pytest.mark.parametrize("n", [0, 1, 7, 5000])
def test_values_are_ordered_from_the_strongest_and_the_earlier_among_equals(n: int) -> None:
    rng = np.random.default_rng(n)
    # Few distinct values, so that most have equals, and both bytes of some the same.
    bits = rng.choice(np.array([1, 255, 256, 257, 511, 15359, 15360, 65535], np.uint16), n)
    order = np.full(n, -1, np.int32)
    strongest_first(bits, order, np.empty(n, np.int32))
    assert np.array_equal(order, np.argsort(-bits.astype(np.int64), kind="stable"))


@pytest.mark.parametrize("repeated", [False, True], ids=["all differ", "some texts repeat"])
def test_a_bands_examples_reach_from_its_strongest_to_its_weakest(repeated: bool) -> None:
    n, room = 5000, 16
    rng = np.random.default_rng(0)
    shares = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
    values = np.sort(rng.random(n).astype(np.float16))[::-1].copy()
    # A sequence of ten tokens for each firing, so that ranks are positions; every other sequence may be the same text.
    tokens = rng.integers(0, 30_000, (n, 10)).astype(np.int32)
    if repeated:
        tokens[::2] = tokens[0]
    positions = np.arange(n, dtype=np.uint32) * 10 + 7
    examples, bounds = np.full((1, 6, room), 2**32 - 1, np.uint32), np.zeros((1, 6, 2), np.float32)
    choose_examples(
        0, 1, np.array([0, n]), positions, values.view(np.uint16), np.repeat(np.arange(n, dtype=np.int32), 10),
        np.arange(n + 1) * 10, tokens.reshape(-1), shares, examples, bounds,
    )  # fmt: skip
    for band in range(5):
        ranks = (examples[0, 1 + band].astype(np.int64) - 7) // 10 - band * n // 5
        assert (np.diff(ranks) > 0).all()  # all there, strongest first
        # One of each sixteenth of the band.
        assert (ranks * room // (n // 5)).tolist() == list(range(room))


@pytest.mark.parametrize(("d_sae", "active"), [(12, 5), (5000, 5)], ids=["few features", "many features"])
@pytest.mark.parametrize("narrow", [True, False])
def test_partners_agree_with_a_dense_count(d_sae: int, active: int, narrow: bool) -> None:
    rng = np.random.default_rng(3)
    n_tokens, n_kept = 300, 4
    # Of many features a dozen share most firings, so that some meet and the rest are met too rarely.
    rows = [np.sort(rng.choice(12 if i % 3 else d_sae, active, replace=False)) for i in range(n_tokens)]
    fires = np.zeros((n_tokens, d_sae), bool)
    for token, row in enumerate(rows):
        fires[token, row] = True
    features, positions = np.nonzero(fires.T)
    offsets = np.searchsorted(features, np.arange(d_sae + 1))
    token_offsets = np.arange(n_tokens + 1) * active
    count = fires.sum(0)
    partner = np.full((d_sae, n_kept), -1, np.int32)
    together, lift, phi = (np.zeros((d_sae, n_kept), np.float32) for _ in range(3))
    coactive_range(
        0, d_sae, offsets, positions.astype(np.uint32), token_offsets.astype(np.uint32 if narrow else np.int64),
        np.concatenate(rows).astype(np.uint16 if narrow else np.uint32), count, n_tokens, 10**6, 3,
        partner, together, lift, phi,
    )  # fmt: skip
    both = np.rint(fires.T.astype(np.float32) @ fires.astype(np.float32)).astype(np.int64)
    for feature in range(d_sae):
        own = count[feature]
        spread = np.sqrt(own * count * (n_tokens - own) * (n_tokens - count).astype(float))
        with np.errstate(divide="ignore", invalid="ignore"):
            expected = np.where(spread > 0, (n_tokens * both[feature] - own * count) / spread, 0).astype(np.float32)
        expected[(both[feature] < 3) | (np.arange(d_sae) == feature)] = 0
        best = np.lexsort((np.arange(d_sae), -expected))[:n_kept]
        best = best[expected[best] > 0]
        assert np.array_equal(partner[feature, : len(best)], best)
        assert (partner[feature, len(best) :] == -1).all()
        np.testing.assert_allclose(phi[feature, : len(best)], expected[best], rtol=1e-5)
        assert np.array_equal(together[feature, : len(best)], both[feature][best])
    assert (partner >= 0).any()


def test_a_dense_features_partners_are_estimated_from_some_of_its_firings() -> None:
    n_tokens = 1000
    rng = np.random.default_rng(0)
    fires = rng.random((n_tokens, 3)) < (0.8, 0.4, 0.4)
    fires[:, 1] &= fires[:, 0]
    features, positions = np.nonzero(fires.T)
    offsets = np.searchsorted(features, np.arange(4))
    tokens = np.nonzero(fires)
    token_offsets = np.searchsorted(tokens[0], np.arange(n_tokens + 1))
    partner = np.full((3, 1), -1, np.int32)
    together, lift, phi = (np.zeros((3, 1), np.float32) for _ in range(3))
    coactive_range(
        0, 1, offsets, positions.astype(np.uint32), token_offsets, tokens[1].astype(np.uint32), fires.sum(0), n_tokens,
        200, 3, partner, together, lift, phi,
    )  # fmt: skip
    assert partner[0, 0] == 1
    # Four standard errors of 200 draws.
    truth = (fires[:, 0] & fires[:, 1]).sum() / fires[:, 0].sum()
    assert abs(together[0, 0] / fires[:, 0].sum() - truth) < 4 * np.sqrt(truth * (1 - truth) / 200)
