"""Contrastive labels on text in which it is known what every feature fires on."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from tests.features.labels.planted import (
    DEAD_FEATURE,
    FEATURE,
    NUMBER,
    PLANTED,
    RANDOM_FEATURE,
    RARE_FEATURE,
    VOCABULARY,
    BytesIndex,
    PlantedIndex,
    many_features,
    planted_index,
)

from saescope.errors import UsageError
from saescope.features.labels import LabelTable, contrastive, contrastive_labels
from saescope.features.labels.halves import HELD_OUT, LABEL, halves_of
from saescope.features.labels.log_odds import log_odds
from saescope.features.labels.scores import balanced_accuracy, scores_of
from saescope.features.labels.windows import NEIGHBOUR, POSITIVE, RANDOM, Text, Windows, draw
from saescope.features.labels.words import SLOT, words_of


@pytest.fixture(scope="module")
def table() -> LabelTable:
    return contrastive_labels(planted_index())


@pytest.fixture(scope="module")
def index() -> PlantedIndex:
    return planted_index()


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        ("Einstein", '"Einstein"'),
        ("New before York", '"new" before "York"'),
        ("after of the", 'words after "of the"'),
        ("then ing", 'then "ing"'),
        ("Alaska", '"alaska"'),
        ("line", "line break"),
    ],
)
def test_label_says_what_the_feature_fires_on(table: LabelTable, feature: str, said: str) -> None:
    label = table.by_feature[FEATURE[feature]]
    assert label.text == said
    assert label.score is not None
    assert label.score > 0.97


def test_topic_is_named_by_its_words(table: LabelTable) -> None:
    label = table.by_feature[FEATURE["sea"]]
    assert label.text.startswith("text about ")
    assert {"harbour", "sailor", "tide", "anchor"} <= set(label.text.removeprefix("text about ").split(", "))
    assert label.score is not None
    assert label.score > 0.85


def test_words_that_share_a_feature_are_listed(table: LabelTable) -> None:
    assert set(table.by_feature[FEATURE["court"]].text.split(", ")) == {'"court"', '"judge"'}


def test_controls_are_no_better_than_they_can_be(table: LabelTable) -> None:
    # The piece "stein" is the whole story; "New" is half of it, and fires beside words other than "York" too.
    assert table.by_feature[FEATURE["Einstein"]].controls["top_token"] > 0.97
    new = table.by_feature[FEATURE["New before York"]]
    assert new.score is not None
    assert new.controls["top_token"] < new.score - 0.15
    others = [label.controls["random_label"] for label in table.labels if label.controls]
    assert 0.4 < np.mean(others) < 0.6


def test_label_of_noise_is_found_out(table: LabelTable) -> None:
    label = table.by_feature[RANDOM_FEATURE]
    assert label.score is not None
    assert label.interval is not None
    assert 0.4 < label.score < 0.6
    assert label.interval[0] < 0.55
    assert label.parts["fit"] > label.score


def test_text_is_not_read_behind_a_part_of_a_character(table: LabelTable, index: PlantedIndex) -> None:
    tops = np.full((index.d_sae, 5), NUMBER[" Alaska"], np.int32)
    broken = BytesIndex({**index.arrays, "lens_top": tops}, index.documents, index.d_sae)
    labels = contrastive_labels(broken).labels
    assert [label.text for label in labels] == [label.text for label in table.labels]
    assert labels[0].parts["outputs"] == [" Alaska"] * 5


def test_rare_feature_has_a_label_and_no_score(table: LabelTable) -> None:
    label = table.by_feature[RARE_FEATURE]
    assert (label.text, label.score, label.interval, label.controls) == ('"zebra"', None, None, {})
    assert DEAD_FEATURE not in table.by_feature
    assert len(table) == len(PLANTED) + 2


@pytest.mark.parametrize("side", [LABEL, HELD_OUT])
def test_feature_of_one_half_has_a_label_and_no_score(index: PlantedIndex, side: int) -> None:
    half = halves_of(index).half
    own = [p for p in np.flatnonzero(half == side) if VOCABULARY[index.arrays["tokens"][p]] == " Alaska"]
    assert len(own) > 10
    arrays = {
        **index.arrays,
        "feature_positions": np.array(own, np.uint32),
        "feature_values": np.full(len(own), 0.9, np.float16),
        "feature_offsets": np.array([0, len(own)], np.int64),
    }
    label = contrastive_labels(PlantedIndex(arrays, index.documents, 1)).labels[0]
    assert (label.score, label.interval, label.controls) == (None, None, {})
    assert "alaska" in label.text.casefold()


def test_intervals_hold_the_score(table: LabelTable) -> None:
    for label in table.labels:
        if label.interval is not None and label.score is not None:
            low, high = label.interval
            assert low <= label.score + 1e-9
            assert high >= label.score - 1e-9


def test_labels_depend_on_the_index_and_the_seed_alone(table: LabelTable, index: PlantedIndex) -> None:
    again = contrastive_labels(index)
    assert [(label.text, label.score, label.interval) for label in again.labels] == [
        (label.text, label.score, label.interval) for label in table.labels
    ]
    alone = contrastive_labels(index, [FEATURE["sea"]]).labels[0]
    # There is no other feature whose label could be tried on it.
    assert list(alone.controls) == ["top_token"]
    same = table.by_feature[FEATURE["sea"]]
    assert (alone.text, alone.score, alone.interval) == (same.text, same.score, same.interval)
    other = contrastive_labels(index, seed=1)
    assert [label.score for label in other.labels] != [label.score for label in table.labels]


def test_memory_is_of_a_few_features_at_once(index: PlantedIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    many = many_features(index, 480)
    at_once = contrastive_labels(many)
    monkeypatch.setattr(contrastive, "_CHUNK", 16)
    tracemalloc.start()
    try:
        words_of(index)
        _, for_words = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        found = contrastive_labels(many)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert [replace(label, version="") for label in found.labels] == [
        replace(one, version="") for one in at_once.labels
    ]
    assert peak - for_words < 480 * 20_000


def test_features_that_do_not_exist_are_refused(index: PlantedIndex) -> None:
    with pytest.raises(UsageError, match="no feature 999"):
        contrastive_labels(index, [999])
    with pytest.raises(UsageError, match="no feature 1"):
        contrastive_labels(index, [10**30])
    with pytest.raises(UsageError, match="unknown split 'word'"):
        contrastive_labels(index, [0], split="word")


@pytest.mark.parametrize("named", [[DEAD_FEATURE], []])
def test_naming_only_features_that_never_fire_is_refused(index: PlantedIndex, named: list[int]) -> None:
    with pytest.raises(UsageError, match="none of the features named fires"):
        contrastive_labels(index, named)


def drawn(index: PlantedIndex) -> tuple[Windows, Text, np.ndarray]:
    halves = halves_of(index)
    text = Text.of(index, halves, words_of(index).region)
    return draw(index, np.arange(index.d_sae), text), text, halves.half


def test_windows_are_disjoint_checked_and_from_their_half(index: PlantedIndex) -> None:
    windows, _, half = drawn(index)
    tokens = index.arrays["tokens"]
    for feature in range(index.d_sae):
        own = set(index.fires_at(feature).tolist())
        seen: set[int] = set()
        for side in (LABEL, HELD_OUT):
            kinds = [
                windows.positions[feature, side, kind, : windows.counts[feature, side, kind]].tolist()
                for kind in (POSITIVE, RANDOM, NEIGHBOUR)
            ]
            assert set(kinds[POSITIVE]) <= own
            assert not own & {*kinds[RANDOM], *kinds[NEIGHBOUR]}
            flat = [p for kind in kinds for p in kind]
            assert len(set(flat)) == len(flat)
            assert not seen & set(flat)
            seen |= set(flat)
            if feature != RARE_FEATURE:
                assert set(half[flat].tolist()) <= {side}
            same = sum(tokens[p] in set(tokens[kinds[POSITIVE]].tolist()) for p in kinds[NEIGHBOUR])
            assert same >= windows.same_token[feature, side]
    assert (windows.counts[RARE_FEATURE, HELD_OUT] == 0).all()
    assert (windows.counts[: len(PLANTED), :, RANDOM].min(0) == [192, 64]).all()


def test_neighbours_carry_the_token_where_it_is_ever_silent(index: PlantedIndex) -> None:
    windows, _, _ = drawn(index)
    share = windows.same_token / np.maximum(windows.counts[:, :, NEIGHBOUR], 1)
    # "New" often comes without "York"; "stein" never without "Ein", so its neighbours only stand close.
    assert share[FEATURE["New before York"], LABEL] > 0.5
    assert share[FEATURE["Einstein"], LABEL] < 0.05


def test_strong_firings_are_drawn_first() -> None:
    index = planted_index()
    feature = FEATURE["sea"]
    low, high = index.arrays["feature_offsets"][feature : feature + 2]
    values = index.arrays["feature_values"].copy()
    values[low:high] = np.where(np.arange(high - low) % 4 == 0, 1.0, 0.1)
    index.arrays["feature_values"] = values
    windows, _, _ = drawn(index)
    positions = windows.positions[feature, LABEL, POSITIVE, : windows.counts[feature, LABEL, POSITIVE]]
    strong = set(index.fires_at(feature)[::4].tolist())
    # A hundred times the energy each, and a quarter of them: 100 in 103 draws.
    assert np.mean([int(p) in strong for p in positions]) > 0.9


def test_halves_are_of_whole_sections_and_do_not_depend_on_order(index: PlantedIndex) -> None:
    halves = halves_of(index)
    for section in np.unique(halves.section[halves.section >= 0]):
        inside = halves.half[(halves.section == section) & (halves.half >= 0)]
        assert len(set(inside.tolist())) == 1
    assert set(halves.half.tolist()) == {-1, LABEL, HELD_OUT}
    assert 0.3 < (halves.half == LABEL).mean() < 0.7


def test_long_documents_are_cut_into_sections() -> None:
    index = planted_index()
    index.arrays["document"] = np.where(index.arrays["document"] >= 0, 0, -1).astype(np.int32)
    index.documents = index.documents[:1]
    halves = halves_of(index)
    sections, sizes = np.unique(halves.section[halves.section >= 0], return_counts=True)
    assert len(sections) > 10
    assert sizes.min() >= 2048
    whole = halves_of(index, by="document")
    assert len(np.unique(whole.half[whole.half >= 0])) == 1


def test_log_odds_are_those_of_the_paper() -> None:
    # δ = log 30.5/(100+11-30-.5) - log 2.5/(200+11-2-.5); σ² = 1/30.5 + 1/2.5
    expected = (np.log(30.5 / 80.5) - np.log(2.5 / 208.5)) / np.sqrt(1 / 30.5 + 1 / 2.5)
    assert log_odds(30, 100, 2, 200, 0.5, 11) == pytest.approx(expected, rel=1e-6)
    assert log_odds(5, 100, 5, 100, 0.5, 11) == pytest.approx(0)


def test_balanced_accuracy_weighs_both_kinds_of_negatives() -> None:
    held = np.zeros((1, 3, 4), bool)
    held[0, 0, :3] = True
    held[0, 1, 0] = True
    held[0, 2, :2] = True
    counts = np.array([[4, 4, 2]], np.int32)
    assert balanced_accuracy(held, counts)[0] == pytest.approx((3 / 4 + (3 / 4 + 0) / 2) / 2)
    held[:] = np.arange(4) < counts[:, :, None]
    assert balanced_accuracy(held, counts)[0] == 0.5


def test_interval_narrows_with_sections_not_with_windows() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([[100, 50, 50]], np.int32)

    def width(n_sections: int) -> float:
        """Whole sections agree with the rule, or don't."""
        section = np.arange(200) % n_sections
        agrees = rng.random(n_sections) < 0.7
        positions = np.zeros((1, 3, 100), np.uint32)
        positions[0, 0], positions[0, 1, :50], positions[0, 2, :50] = np.arange(100), np.arange(50), np.arange(50) + 50
        held = np.zeros((1, 3, 100), bool)
        held[0, 0] = agrees[section[:100]]
        windows = Windows(
            np.repeat(positions[:, None], 2, 1),
            np.repeat(counts[:, None], 2, 1),
            np.zeros((1, 2), np.int32),
            np.zeros((1, 16), np.uint32),
        )
        found = scores_of(held, windows, section.astype(np.int32))
        return float(found.high[0] - found.low[0])

    assert width(6) > 1.5 * width(100)
    assert np.isnan(width(3))


def test_words_join_pieces_and_keep_to_their_document(index: PlantedIndex) -> None:
    words = words_of(index)
    tokens = [VOCABULARY[token] for token in index.arrays["tokens"]]
    at = next(p for p, token in enumerate(tokens) if token == "stein")
    item = words.slots[at, SLOT["word"]]
    assert (words.vocabulary[item], words.usual[item]) == ("einstein", "Einstein")
    assert words.slots[at - 1, SLOT["word"]] == -1
    assert words.slots[at - 1, SLOT["inside"]] == item
    assert words.vocabulary[words.slots[at - 1, SLOT["next"]]] == "…stein"
    year = next(p for p, token in enumerate(tokens) if token == " 1")
    assert words.vocabulary[words.slots[year, SLOT["kind"]]] == "years"
    # The first word of a sequence has nothing before it, the last nothing after.
    starts = index.arrays["sequence_offsets"][:-1]
    assert (words.slots[starts + 1, SLOT["previous"]] == -1).all()
    assert (words.slots[starts[1:] - 1, SLOT["next"]] == -1).all()
