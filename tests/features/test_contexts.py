"""Top contexts against brute force over dense codes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saescope.coders import Codes
from saescope.errors import CoderError
from saescope.features import FeatureContexts, Passages, spread_over_densities

D_SAE, SEQ = 7, 14


class Text:
    """Random sequences of several documents with separators, positions left out, and dense codes."""

    def __init__(self, n: int, seed: int, *, ties: bool = False) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(3, 90, (n, SEQ), generator=generator)
        self.document = torch.arange(n)[:, None] * 3 + torch.randint(0, 2, (n, SEQ), generator=generator).sort(1).values
        separator = torch.rand(n, SEQ, generator=generator) < 0.1
        self.document[separator] = -1
        lengths = torch.randint(SEQ // 2, SEQ + 1, (n,), generator=generator)
        padding = torch.arange(SEQ) >= lengths[:, None]
        self.tokens[padding], self.document[padding] = -1, -1
        self.kept = (self.document >= 0) & (torch.rand(n, SEQ, generator=generator) < 0.9)
        self.codes = (torch.rand(n, SEQ, D_SAE, generator=generator) - 0.6).clamp(min=0)
        if ties:
            self.codes = (self.codes * 10).ceil() / 10
        self.codes[~self.kept] = 0

    def feed(self, found: FeatureContexts, sizes: list[int] | None = None) -> FeatureContexts:
        first = 0
        for size in sizes or [self.tokens.shape[0]]:
            part = slice(first, first + size)
            passages = Passages(self.tokens[part], self.document[part], torch.arange(first, first + size))
            found.update(Codes.from_dense(self.codes[part][self.kept[part]]), passages, self.kept[part])
            first += size
        return found

    def best(self, latent: int, n: int) -> list[tuple[float, int, int]]:
        """(value, sequence, position) of the strongest contexts, one a sequence, strongest and earliest first."""
        peaks = []
        for sequence in range(self.tokens.shape[0]):
            values = self.codes[sequence, :, latent].tolist()
            if max(values) > 0:
                peaks.append((max(values), sequence, values.index(max(values))))
        return sorted(peaks, key=lambda peak: (-peak[0], peak[1]))[:n]

    def window(self, latent: int, sequence: int, position: int, reach: int) -> tuple[list[int], list[float], int]:
        own = int(self.document[sequence, position])
        first = last = position
        while first > max(0, position - reach) and int(self.document[sequence, first - 1]) == own:
            first -= 1
        while last < min(SEQ - 1, position + reach) and int(self.document[sequence, last + 1]) == own:
            last += 1
        inside = slice(first, last + 1)
        return self.tokens[sequence, inside].tolist(), self.codes[sequence, inside, latent].tolist(), position - first


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 100), st.booleans())
def test_every_feature_has_the_contexts_brute_force_finds(sizes: list[int], seed: int, ties: bool) -> None:
    text = Text(sum(sizes), seed, ties=ties)
    table = text.feed(FeatureContexts(D_SAE, n=4, window=5), sizes).table()
    for latent in range(D_SAE):
        contexts = table.contexts(latent)
        expected = text.best(latent, 4)
        assert [(one.sequence, one.position) for one in contexts] == [(sequence, at) for _, sequence, at in expected]
        for one, (value, sequence, position) in zip(contexts, expected, strict=True):
            tokens, activations, peak = text.window(latent, sequence, position, 5)
            assert (one.tokens, one.peak, one.document) == (tokens, peak, int(text.document[sequence, position]))
            assert one.activations == pytest.approx(activations)
            assert one.value == pytest.approx(value)


def test_counts_and_statistics_of_every_feature() -> None:
    text = Text(20, 0)
    table = text.feed(FeatureContexts(D_SAE, n=3), [7, 13]).table()
    dense = text.codes[text.kept]
    assert table.n_tokens == dense.shape[0]
    assert torch.equal(table.count, (dense > 0).sum(0))
    torch.testing.assert_close(table.maximum, dense.amax(0))
    torch.testing.assert_close(table.mean, dense.double().sum(0) / (dense > 0).sum(0))


def test_a_feature_that_never_fires_has_no_context() -> None:
    text = Text(5, 1)
    text.codes[:, :, 2] = 0
    table = text.feed(FeatureContexts(D_SAE)).table()
    assert table.contexts(2) == []
    assert float(table.maximum[2]) == 0
    assert float(table.mean[2]) == 0
    assert int(table.sequence[2].max()) == -1


def test_text_on_which_nothing_fires() -> None:
    text = Text(3, 1)
    text.codes.zero_()
    table = text.feed(FeatureContexts(D_SAE)).table()
    assert int(table.count.sum()) == 0
    assert all(table.contexts(latent) == [] for latent in range(D_SAE))


def test_codes_of_other_positions_are_refused() -> None:
    text = Text(3, 1)
    passages = Passages(text.tokens, text.document, torch.arange(3))
    with pytest.raises(CoderError, match="do not belong"):
        FeatureContexts(D_SAE).update(Codes.from_dense(torch.ones(2, D_SAE)), passages, text.kept)


def test_features_are_spread_over_densities_and_always_the_same() -> None:
    density = torch.cat([torch.zeros(50), torch.logspace(-5, -1, 240, dtype=torch.float64)])
    chosen = spread_over_densities(density, 24)
    assert chosen == spread_over_densities(density, 24)
    assert len(set(chosen)) == 24
    assert min(chosen) >= 50
    shown = density[chosen]
    assert (shown[:-1] > shown[1:]).all()
    # One from every tenth of the range of log density at least.
    assert torch.histc(shown.log10(), 10, -5, -1).min() >= 1


def test_fewer_alive_than_asked_for_are_all_shown() -> None:
    assert spread_over_densities(torch.tensor([0.0, 0.5, 0.0, 0.9]), 24) == [3, 1]
    assert spread_over_densities(torch.zeros(4), 24) == []
