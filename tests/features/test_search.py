"""Search by meaning over text with planted features."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from tests.features.labels.planted import FEATURE, NUMBER, BytesIndex, PlantedIndex, many_features, planted_index

from saescope.errors import FeatureIndexError
from saescope.features.labels import Label, LabelTable, contrastive_labels
from saescope.features.search import MeaningSearch


@pytest.fixture(scope="module")
def index() -> PlantedIndex:
    return planted_index()


@pytest.fixture(scope="module")
def search(index: PlantedIndex) -> MeaningSearch:
    return MeaningSearch.build(index, contrastive_labels(index))


def first(search: MeaningSearch, query: str) -> int:
    return search.query(query)[0][0]


@pytest.mark.parametrize(
    ("query", "feature"),
    [("Einstein", "Einstein"), ("ALASKA", "Alaska"), ("judge", "court"), ("the judge's court", "court")],
)
def test_words_find_their_feature(search: MeaningSearch, query: str, feature: str) -> None:
    assert first(search, query) == FEATURE[feature]


def test_words_that_begin_alike_are_reached(search: MeaningSearch) -> None:
    assert first(search, "Einst") == FEATURE["Einstein"]
    assert first(search, "courtroom") == FEATURE["court"]
    # But not short ones, and not from the middle.
    assert search.query("stein") == []
    assert search.query("cou") == []


def test_words_of_the_same_passages_are_near(search: MeaningSearch) -> None:
    """No feature is labelled with "verdict", which stands in texts about the law alone, but one with its company is found."""
    near = {search.terms[term] for term, _ in search._near(search.terms.index("verdict"))}
    assert near & {"court", "judge", "appeal"}
    assert not near & {"harbour", "sailor", "tide", "anchor"}
    unlabelled = MeaningSearch.build(planted_index())
    ranking = [feature for feature, _ in unlabelled.query("verdict appeal")]
    assert ranking.index(FEATURE["court"]) < min(
        [ranking.index(other) for other in (FEATURE["sea"], FEATURE["Alaska"]) if other in ranking], default=99
    )


def test_labels_count_for_more_than_contexts(index: PlantedIndex) -> None:
    labels = LabelTable((Label(FEATURE["line"], "a verdict, sailors", kind="llm"),), "llm", "v1")
    found = MeaningSearch.build(index, labels)
    assert first(found, "verdict") == FEATURE["line"]
    assert first(found, "sailor") == FEATURE["line"]
    assert found.labels == "v1"


def test_output_tokens_and_titles_are_searched(index: PlantedIndex) -> None:
    tops = np.full((index.d_sae, 3), NUMBER[" the"], np.int32)
    tops[FEATURE["line"]] = [NUMBER[" Alaska"], NUMBER[" the"], NUMBER["ing"]]
    documents = np.full((index.d_sae, 5), -1, np.int32)
    documents[FEATURE["line"], 0] = 0
    more = PlantedIndex({**index.arrays, "lens_top": tops, "top_documents": documents}, index.documents, index.d_sae)
    before = dict(MeaningSearch.build(index).query("alaska", 99)).get(FEATURE["line"], 0.0)
    assert dict(MeaningSearch.build(more).query("alaska", 99))[FEATURE["line"]] > before


def test_output_tokens_are_not_read_behind_a_part_of_a_character(index: PlantedIndex) -> None:
    tops = np.full((index.d_sae, 3), NUMBER[" the"], np.int32)
    tops[FEATURE["line"]] = NUMBER[" Alaska"]
    arrays = {**index.arrays, "lens_top": tops}
    whole, broken = (kind(arrays, index.documents, index.d_sae) for kind in (PlantedIndex, BytesIndex))
    assert MeaningSearch.build(broken).query("alaska", 99) == MeaningSearch.build(whole).query("alaska", 99)


def test_memory_is_of_a_few_features_at_once(index: PlantedIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    many = many_features(index, 240)
    at_once = MeaningSearch.build(many)
    peaks = []
    for chunk in (240, 16):
        monkeypatch.setattr("saescope.features.search._CHUNK", chunk)
        tracemalloc.start()
        try:
            found = MeaningSearch.build(many)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
        assert abs(found.weights - at_once.weights).max() == 0
        assert np.array_equal(found.meaning, at_once.meaning)
    assert peaks[1] < peaks[0] - 240 * 50_000


@pytest.mark.parametrize("query", ["", "   ", "?!", "zzzz", "\x00\u202e", "<script>", "😀", "a" * 100_000])
def test_queries_that_find_nothing_break_nothing(search: MeaningSearch, query: str) -> None:
    assert search.query(query) == []
    assert search.query("Einstein", 0) == []


def test_scores_fall_and_every_feature_comes_once(search: MeaningSearch) -> None:
    found = search.query("court sailor Einstein", 99)
    scores = [score for _, score in found]
    assert scores == sorted(scores, reverse=True)
    assert min(scores) > 0
    assert len({feature for feature, _ in found}) == len(found)
    assert search.query("court sailor Einstein", 2) == found[:2]


def test_kept_file_gives_the_same_answers(search: MeaningSearch, tmp_path: Path) -> None:
    path = search.save(tmp_path / "search" / "meaning.npz")
    again = MeaningSearch.load(path)
    for query in ("court", "Einstein sailor"):
        kept, own = again.query(query, 5), search.query(query, 5)
        assert [feature for feature, _ in kept] == [feature for feature, _ in own]
        assert np.allclose([score for _, score in kept], [score for _, score in own], rtol=5e-3)


def test_it_is_built_again_for_other_labels_and_after_damage(planted: PlantedIndex) -> None:
    labels = LabelTable((Label(3, "one", kind="llm"),), "llm", "v1")
    assert MeaningSearch.of(planted, labels).labels == "v1"
    path = planted.path / "search" / "meaning.npz"
    before = path.stat().st_mtime_ns
    assert MeaningSearch.of(planted, labels).labels == "v1"
    assert path.stat().st_mtime_ns == before
    assert MeaningSearch.of(planted).labels == ""
    for damage in (b"", b"PK\x03\x04 no archive", path.read_bytes()[:-40]):
        path.write_bytes(damage)
        with pytest.raises(FeatureIndexError, match=r"meaning\.npz"):
            MeaningSearch.load(path)
        assert first(MeaningSearch.of(planted), "Einstein") == FEATURE["Einstein"]


def test_it_is_built_again_when_output_tokens_have_come(planted: PlantedIndex) -> None:
    assert MeaningSearch.of(planted).query("alaska", 99)
    tops = np.full((planted.d_sae, 3), NUMBER[" the"], np.int32)
    tops[FEATURE["line"]] = NUMBER[" Alaska"]
    more = PlantedIndex({**planted.arrays, "lens_top": tops}, planted.documents, planted.d_sae, planted.path)
    assert MeaningSearch.of(more).query("alaska", 99) == MeaningSearch.build(more).query("alaska", 99)
    path = planted.path / "search" / "meaning.npz"
    before = path.stat().st_mtime_ns
    MeaningSearch.of(more)
    assert path.stat().st_mtime_ns == before


def test_ten_thousand_features_answer_at_once() -> None:
    from scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    terms = sorted({"".join(chr(97 + c) for c in rng.integers(0, 26, 7)) for _ in range(30_000)})
    features = rng.integers(0, 10_000, len(terms) * 50)
    weights = csr_matrix((np.ones(features.size, np.float32), features, np.arange(len(terms) + 1) * 50))
    vectors = rng.standard_normal((len(terms), 96)).astype(np.float32)
    meaning = rng.standard_normal((10_000, 96)).astype(np.float32)
    search = MeaningSearch(terms, np.ones(len(terms), np.float32), weights, vectors, meaning)
    times = []
    for number in range(9):
        began = time.process_time()
        assert search.query(" ".join(terms[number * 1000 : number * 1000 + 3]), 20)
        times.append(time.process_time() - began)
    assert sorted(times)[4] < 0.02
