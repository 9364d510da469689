"""Features planted in a random text, one of each form, and the properties that tell them apart, by their definitions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from saescope.features import kinds
from saescope.features.kinds import FORMS, FiringProperties, IndexedFirings, firing_properties, token_groups

N_SEQUENCES, LENGTH, VOCAB = 60, 128, 300
BINS = (0, 1, 2, 3, 5, 9, 17, 33, 65)
# A token and the same word with a capital.
WORD, CAPITAL, BEFORE, FIRST, SECOND, NEXT = 5, 6, 7, 8, 9, 11


class Text:
    """Documents of random tokens, two a sequence with a separator between; commoner tokens are commoner."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        weight = 1 / np.arange(1, VOCAB + 1)
        self.random = random
        self.n = N_SEQUENCES * LENGTH
        self.tokens = random.choice(VOCAB, self.n, p=weight / weight.sum()).astype(np.int32)
        place = np.arange(self.n) % LENGTH
        cut = random.integers(40, 90, N_SEQUENCES)[np.arange(self.n) // LENGTH]
        self.document = (2 * (np.arange(self.n) // LENGTH) + (place > cut)).astype(np.int32)
        self.document[place == cut] = -1
        self.place = place
        self.kept = (self.document >= 0).astype(np.uint8)
        # The pair, often enough, and its second token alone far more often.
        for at in random.choice(self.n - 2, 60, replace=False):
            self.tokens[at], self.tokens[at + 1] = FIRST, SECOND

    def firings(self, features: list[NDArray[np.bool_]], lens_top: list[list[int]] | None = None) -> IndexedFirings:
        positions = [np.flatnonzero(fires & (self.kept > 0)).astype(np.uint32) for fires in features]
        offsets = np.concatenate([[0], np.cumsum([len(one) for one in positions])]).astype(np.int64)
        bin_of = np.searchsorted(BINS, self.place, side="right") - 1
        profile = np.stack([np.bincount(bin_of[one], minlength=len(BINS)) for one in positions])
        return IndexedFirings(
            self.tokens,
            self.document,
            self.kept,
            np.arange(0, self.n + 1, LENGTH),
            offsets,
            np.concatenate(positions),
            self.random.uniform(0.5, 1, offsets[-1]).astype(np.float16),
            profile,
            np.bincount(bin_of[self.kept > 0], minlength=len(BINS)),
            None if lens_top is None else np.array(lens_top, np.int32),
        )

    def chance(self, p: float) -> NDArray[np.bool_]:
        return self.random.random(self.n) < p


@pytest.fixture(scope="module")
def planted() -> tuple[list[str], FiringProperties]:
    text = Text()
    after = np.append(False, text.tokens[:-1] == BEFORE)
    pair = np.append(False, text.tokens[:-1] == FIRST) & (text.tokens == SECOND)
    following = np.append(text.tokens[1:] == NEXT, False)
    topic = np.isin(text.document, [3, 40, 41, 77]) & text.chance(0.7)
    four = np.zeros(text.n, bool)
    four[[100, 1000, 2000, 3000]] = True
    noise = text.chance(0.0005)
    features = {
        "silent": np.zeros(text.n, bool),
        "position": text.place < 4,
        "dense": text.chance(0.3),
        "token": np.isin(text.tokens, [WORD, CAPITAL]) | noise,
        "token, half of the time": (text.tokens == 20) & text.chance(0.7),
        "phrase: whatever follows a token": after | noise,
        "phrase: one token after another": pair | noise,
        "output-promoting": following | noise,
        "context": topic,
        "other: here and there": text.chance(0.01),
        "other: four times": four,
    }
    groups = np.arange(VOCAB, dtype=np.int32)
    groups[CAPITAL] = WORD
    lens_top = [[200, NEXT] if name == "output-promoting" else [201, 202] for name in features]
    return list(features), firing_properties(text.firings(list(features.values()), lens_top), groups)


def test_every_planted_feature_has_its_form(planted: tuple[list[str], FiringProperties]) -> None:
    names, found = planted
    for name, form in zip(names, found.forms(), strict=True):
        assert FORMS[form] == name.split(":")[0].split(",")[0], name


def test_properties_of_planted_features(planted: tuple[list[str], FiringProperties]) -> None:
    names, found = planted
    of = {name: index for index, name in enumerate(names)}
    token, half = of["token"], of["token, half of the time"]
    assert found.token_share[half] == pytest.approx(1)
    assert found.token_variety[half] == pytest.approx(1)
    assert found.token_explained[half] == 1
    assert found.bigram_explained[half] < 0.9
    # Two spellings are one token, and noise is the rest.
    assert found.token_share[token] > 0.95
    assert found.token_explained[token] > 0.95
    assert found.previous_share[of["phrase: whatever follows a token"]] > 0.95
    assert found.previous_explained[of["phrase: whatever follows a token"]] > 0.95
    pair = of["phrase: one token after another"]
    assert min(found.bigram_share[pair], found.bigram_explained[pair]) > 0.9
    assert found.token_explained[pair] < 0.1
    assert found.output_share[of["output-promoting"]] > 0.9
    assert found.position_shift[of["position"]] > 0.9
    assert found.width[of["context"]] > 20
    assert found.width[of["other: here and there"]] < 3
    assert found.company[of["dense"]] == pytest.approx(found.company_by_chance[of["dense"]], abs=0.05)


def test_properties_by_their_definitions() -> None:
    """Small enough to be counted by hand, every firing looked at."""
    text = Text()
    fires = text.chance(0.02) | (np.isin(text.tokens, [20, 50, 60, 70]) & text.chance(0.5))
    firings = text.firings([fires], [[3, 4, 12]])
    found = firing_properties(firings, sample=100_000)
    at, value = firings.feature_positions.astype(int), firings.feature_values.astype(float)
    tokens, document, sequence = text.tokens, text.document, np.arange(text.n) // LENGTH

    def joined(a: int, b: int) -> bool:
        low, high = min(a, b), max(a, b)
        return low >= 0 and high < text.n and sequence[low] == sequence[high] and len({*document[low : high + 1]}) == 1

    def top(keys: list[object]) -> float:
        weight: dict[object, float] = {}
        for key, v in zip(keys, value, strict=True):
            weight[key] = weight.get(key, 0) + v
        return sum(sorted(weight.values())[-3:]) / value.sum()

    assert found.token_share[0] == pytest.approx(top([tokens[p] for p in at]), rel=1e-5)
    before = [tokens[p - 1] if joined(p, p - 1) else -p for p in at]
    assert found.previous_share[0] == pytest.approx(top(before), rel=1e-5)
    pairs = [(tokens[p - 1], tokens[p]) if joined(p, p - 1) else -p for p in at]
    assert found.bigram_share[0] == pytest.approx(top(pairs), rel=1e-5)
    sure = []
    for p in at:
        others = (tokens == tokens[p]) & (text.kept > 0)
        others[p] = False
        sure.append(others.sum() >= 4 and fires[others].mean() >= 0.5)
    assert 0.05 < found.token_explained[0] < 0.95
    assert found.token_explained[0] == pytest.approx((value * sure).sum() / value.sum(), rel=1e-5)
    weight = np.bincount(tokens[at], weights=value)
    share = weight[weight > 0] / weight.sum()
    assert found.token_variety[0] == pytest.approx(np.exp(-(share * np.log(share)).sum()), rel=1e-4)
    followed = [joined(p, p + 1) and tokens[p + 1] in (3, 4, 12) for p in at]
    assert found.output_share[0] == pytest.approx((value * followed).sum() / value.sum(), rel=1e-5)
    assert found.output_base[0] == pytest.approx(np.isin(tokens[text.kept > 0], (3, 4, 12)).mean(), rel=1e-5)
    company = [any(q != p and abs(q - p) <= kinds.REACH and joined(p, q) for q in at) for p in at]
    assert found.company[0] == pytest.approx((value * company).sum() / value.sum(), rel=1e-5)
    runs, of_run = [[at[0]]], [0]
    for a, b in pairwise(at):
        if not (b - a <= kinds.GAP and joined(a, b)):
            runs.append([])
        runs[-1].append(b)
        of_run.append(len(runs) - 1)
    widths = np.array([runs[run][-1] - runs[run][0] + 1 for run in of_run])
    assert found.width[0] == pytest.approx((value * widths).sum() / value.sum(), rel=1e-5)
    assert found.density[0] == pytest.approx(len(at) / text.kept.sum())


def test_a_bounded_sample_says_about_the_same() -> None:
    text = Text()
    firings = text.firings([text.chance(0.2), np.isin(text.tokens, [0, 1, 2, 3])])
    whole, part = firing_properties(firings, sample=100_000), firing_properties(firings, sample=200)
    for name in ("token_share", "previous_share", "company"):
        np.testing.assert_allclose(getattr(part, name), getattr(whole, name), atol=0.12)


def test_same_result_from_memory_mapped_files(tmp_path: Path) -> None:
    text = Text()
    firings = text.firings([text.chance(0.05), text.tokens == 4], [[1, 2], [3, 4]])
    mapped = {}
    for name, array in firings.__dict__.items():
        mapped[name] = None
        if array is not None:
            np.save(tmp_path / name, array)
            mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    other = IndexedFirings(**mapped)
    one, two = firing_properties(firings), firing_properties(other)
    for name in one.__dict__:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_a_far_output_token_makes_a_feature_output_promoting() -> None:
    text = Text()
    firings = text.firings([text.chance(0.01)] * 2)
    lens = IndexedFirings(**{**firings.__dict__, "lens_peak": np.array([4.0, 12.0], np.float32)})
    assert [FORMS[form] for form in firing_properties(lens).forms()] == ["other", "output-promoting"]


def test_text_on_which_nothing_fires() -> None:
    text = Text()
    found = firing_properties(text.firings([np.zeros(text.n, bool)] * 3))
    assert [FORMS[form] for form in found.forms()] == ["silent"] * 3
    assert not found.token_share.any()


def test_groups_join_spellings_of_a_word(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    groups = token_groups(byte_tokenizer)
    identity: Callable[[str], int] = byte_tokenizer.convert_tokens_to_ids  # type: ignore[assignment]
    assert groups[identity("T")] == groups[identity("t")] == min(identity("T"), identity("t"))
    assert groups[identity("Ġthe")] == groups[identity("the")] if identity("the") is not None else True
    # Bytes that are no character, and spaces, are nobody's spelling.
    for alone in ("Ð", "Ġ", "Ċ"):
        assert groups[identity(alone)] == identity(alone)
    assert len(set(groups.tolist())) < len(groups)
