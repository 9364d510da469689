"""Neuronpedia's files: every line has the same keys, values are the index's, nothing is half-written."""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.features.index.built import tiny_coder, tiny_index
from tests.measured import tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope import coders
from saescope.coders import SparseCoder
from saescope.errors import CoderError, FeatureIndexError, OccupiedError, SaescopeError, UsageError
from saescope.features import FeatureIndex
from saescope.features.exports import NeuronpediaSource, feature_json, neuronpedia, write_neuronpedia
from saescope.lm import LanguageModel

# What the importer's tables have, by Neuronpedia's own field names.
FEATURE_KEYS = {
    "modelId", "layer", "index", "maxActApprox", "frac_nonzero", "pos_str", "pos_values", "neg_str", "neg_values",
    "freq_hist_data_bar_heights", "freq_hist_data_bar_values", "logits_hist_data_bar_heights",
    "logits_hist_data_bar_values", "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_pearson", "correlated_neurons_l1", "correlated_features_indices",
    "correlated_features_pearson", "correlated_features_l1", "topkCosSimIndices", "topkCosSimValues",
    "decoder_weights_dist",
}  # fmt: skip
ACTIVATION_KEYS = {
    "tokens", "values", "maxValue", "minValue", "maxValueTokenIndex", "binMin", "binMax", "binContains",
    "qualifyingTokenIndex",
}  # fmt: skip


@dataclass(frozen=True)
class Said:
    text: str
    kind: str = "contrastive"
    score: float | None = 0.875


@pytest.fixture(scope="module")
def lm(bos_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(bos_tokenizer)


@pytest.fixture(scope="module")
def index(
    bos_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory, lm: LanguageModel
) -> FeatureIndex:
    return tiny_index(tmp_path_factory.mktemp("tiny"), bos_tokenizer, lm=lm)


@pytest.fixture(scope="module")
def coder(index: FeatureIndex) -> SparseCoder:
    assert index.coder_path is not None
    return coders.load(str(index.coder_path))


def lines(path: Path) -> list[dict[str, Any]]:
    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return [json.loads(line) for line in content.decode().splitlines()]


def strongest(index: FeatureIndex) -> int:
    return int(index.count.argmax())


def test_every_line_of_a_file_has_the_keys_of_its_first(
    index: FeatureIndex, coder: SparseCoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(neuronpedia, "BATCH", 16)
    live = np.flatnonzero(index.count).tolist()
    labels = {live[0]: Said("a label"), live[-1]: Said("another", "llm", None)}
    silent = int(np.flatnonzero(index.count == 0)[0]) if (index.count == 0).any() else live[1]
    folder = write_neuronpedia(index, tmp_path, [*live, silent], coder=coder, labels=labels)
    assert folder == tmp_path / "tiny" / "1-random"
    for path in folder.rglob("*.jsonl*"):
        rows = lines(path)
        assert len({tuple(row) for row in rows}) == 1, path
        assert all(row["createdAt"] == index.manifest.created for row in rows)
    features = [row for path in sorted((folder / "features").iterdir()) for row in lines(path)]
    activations = [row for path in sorted((folder / "activations").iterdir()) for row in lines(path)]
    explanations = [row for path in sorted((folder / "explanations").iterdir()) for row in lines(path)]
    assert len(list((folder / "features").iterdir())) == -(-len({*live, silent}) // 16) > 1
    assert sorted(int(row["index"]) for row in features) == sorted({*live, silent})
    assert set(features[0]) >= FEATURE_KEYS
    assert set(activations[0]) >= ACTIVATION_KEYS
    assert len({row["id"] for row in [*activations, *explanations]}) == len(activations) + len(explanations)
    assert {(row["modelId"], row["layer"]) for row in [*features, *activations, *explanations]} == {
        ("tiny", "1-random")
    }
    said = {row["index"]: (row["description"], row["notes"]) for row in explanations}
    assert said == {
        str(live[0]): ("a label", "contrastive label by saescope, held-out balanced accuracy 0.88"),
        str(live[-1]): ("another", "llm label by saescope"),
    }
    [source], [of_set], [release], [model] = (
        lines(folder / f"{name}.jsonl") for name in ("source", "sourceset", "release", "model")
    )
    assert (source["id"], source["setName"], of_set["name"]) == ("1-random", "random", "random")
    assert of_set["releaseName"] == release["name"]
    assert (model["id"], model["layers"]) == ("tiny", 3)


def test_another_coder_and_another_model_are_refused(
    index: FeatureIndex, coder: SparseCoder, bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(CoderError, match="is not the one that was indexed; load that, random"):
        feature_json(index, 0, coder=tiny_coder(seed=9))
    other = tiny_lm(bos_tokenizer, name="other", seed=5)
    with pytest.raises(FeatureIndexError, match="the model given is other, whose weights are others"):
        write_neuronpedia(index, tmp_path / "out", coder=coder, lm=other)
    assert not (tmp_path / "out").exists()


def test_a_features_json_says_what_the_index_says(index: FeatureIndex, coder: SparseCoder, lm: LanguageModel) -> None:
    feature = strongest(index)
    found = feature_json(index, feature, label=Said("about <b>foxes</b>"), coder=coder, lm=lm)
    assert found["index"] == str(feature)
    assert found["maxActApprox"] == pytest.approx(float(index.maximum[feature]), rel=1e-5)
    assert found["frac_nonzero"] == pytest.approx(float(index.density[feature]), rel=1e-5)
    heights, middles = found["freq_hist_data_bar_heights"], found["freq_hist_data_bar_values"]
    assert len(heights) == len(middles)
    assert sum(heights) == int(index.count[feature])
    assert np.average(middles, weights=heights) == pytest.approx(float(index.mean[feature]), rel=0.02)
    assert len(found["logits_hist_data_bar_heights"]) == len(found["logits_hist_data_bar_values"])
    assert sum(found["logits_hist_data_bar_heights"]) == len(index.tokenizer)
    assert found["pos_values"] == sorted(found["pos_values"], reverse=True)
    assert found["neg_values"] == sorted(found["neg_values"])
    assert found["pos_str"] == [index.pieces([token])[0] for token in index.arrays["lens_top"][feature].tolist()]
    row = coder.W_dec[feature].detach()
    np.testing.assert_allclose(found["vector"], row.numpy(), rtol=1e-5)
    assert found["hookName"] == "blocks.1.hook_resid_post"
    order = row.abs().argsort(descending=True)[:10]
    assert found["neuron_alignment_indices"] == order.tolist()
    np.testing.assert_allclose(found["neuron_alignment_l1"], (row.abs() / row.abs().sum())[order].numpy(), rtol=1e-4)
    explanation = found["explanations"][0]
    assert explanation["description"] == "about <b>foxes</b>"
    assert explanation["scores"] == [{"explanationScoreTypeName": "balanced_accuracy", "value": 0.875}]


def test_correlations_are_those_of_dense_activations(index: FeatureIndex) -> None:
    feature = strongest(index)
    found = feature_json(index, feature)
    assert found["correlated_features_indices"]

    def dense(one: int) -> np.ndarray:
        codes = np.zeros(index.n_positions)
        positions, values = index.firings(one)
        codes[positions] = values
        return codes[np.asarray(index.arrays["kept"]) > 0]

    for other, pearson, cosine in zip(
        found["correlated_features_indices"],
        found["correlated_features_pearson"],
        found["correlated_features_l1"],
        strict=True,
    ):
        x, y = dense(feature), dense(other)
        assert pearson == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-4)
        assert cosine == pytest.approx(x @ y / np.linalg.norm(x) / np.linalg.norm(y), rel=1e-4)


def test_activations_are_examples_with_their_interval(index: FeatureIndex) -> None:
    feature = strongest(index)
    rows = feature_json(index, feature)["activations"]
    groups = index.examples(feature)
    assert len(rows) == sum(len(group.positions) for group in groups)
    for row in rows:
        assert len(row["tokens"]) == len(row["values"])
        assert row["values"][row["maxValueTokenIndex"]] == row["maxValue"] == max(row["values"])
        at = row["values"][row["qualifyingTokenIndex"]]
        assert at <= row["binMax"] * (1 + 1e-5)
        if row["binMin"] != -1:
            assert at >= row["binMin"] * (1 - 2e-3)
            assert row["binContains"] == pytest.approx(float(index.density[feature]) / 5, rel=1e-4)
        else:
            assert row["binContains"] == -1
    assert [row["binMin"] for row in rows].count(-1.0) == len(groups[0].positions)


def test_without_lens_or_coder_the_keys_are_there_and_empty(
    bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    index = tiny_index(tmp_path, bos_tokenizer)
    found = feature_json(index, strongest(index))
    assert set(found) >= FEATURE_KEYS
    assert found["pos_str"] == found["vector"] == found["logits_hist_data_bar_values"] == []
    assert found["hasVector"] is False
    assert found["explanations"] == []


def test_hostile_text_is_whole_json_that_a_database_takes(index: FeatureIndex, tmp_path: Path) -> None:
    text = '</script>\n"quoted" \\u0000 literal, NUL \0, lone \ud800, \u2028 and \u202e'
    feature = strongest(index)
    folder = write_neuronpedia(index, tmp_path, [feature], labels={feature: Said(text)})
    raw = gzip.decompress((folder / "explanations" / "batch-0.jsonl.gz").read_bytes()).decode()
    assert raw.count("\n") == 1
    assert json.loads(raw)["description"] == text.replace("\0", "\ufffd").replace("\ud800", "?")
    hostile = [row for path in (folder / "activations").iterdir() for row in lines(path)]
    assert not any("\0" in token for row in hostile for token in row["tokens"])


def test_numbers_have_six_digits_and_no_tails() -> None:
    random = np.random.default_rng(0)
    values = random.standard_normal(2000) * 10.0 ** random.integers(-12, 12, 2000)
    for value, rounded in zip(values.tolist(), neuronpedia._numbers(values), strict=True):
        assert rounded == pytest.approx(value, rel=1e-5)
        assert len(f"{rounded!r}".split("e")[0].strip("-0.").replace(".", "").strip("0")) <= 6, rounded
    assert neuronpedia._numbers(np.array([0.0, -0.0, 1.0, 0.1, 86.24, 123456789.0])) == [0, 0, 1, 0.1, 86.24, 123457000]


def test_same_files_every_time(index: FeatureIndex, coder: SparseCoder, tmp_path: Path) -> None:
    one, two = (write_neuronpedia(index, tmp_path / name, coder=coder) for name in ("one", "two"))
    for path in one.rglob("*.gz"):
        assert path.read_bytes() == (two / path.relative_to(one)).read_bytes()


def test_names_that_an_address_cannot_have_are_refused(index: FeatureIndex) -> None:
    assert NeuronpediaSource.of(index, model="gpt2-small", source_set="res-jb").id == "1-res-jb"
    with pytest.raises(UsageError, match="cannot be part of an address; my-set can"):
        NeuronpediaSource.of(index, source_set="My Set")
    with pytest.raises(UsageError, match="cannot be part of an address; x can"):
        NeuronpediaSource.of(index, model="../x")


def test_nothing_is_left_of_an_export_that_fails(
    index: FeatureIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_neuronpedia(index, tmp_path / "out", told=interrupted)
    assert list(tmp_path.iterdir()) == []
    folder = write_neuronpedia(index, tmp_path / "out", [strongest(index)])
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(OccupiedError, match="holds something"):
        write_neuronpedia(index, tmp_path / "out")
    assert sorted(path.name for path in folder.rglob("*")) == before
    (tmp_path / "file").write_text("")
    with pytest.raises(SaescopeError, match="cannot write"):
        write_neuronpedia(index, tmp_path / "file")


def test_features_that_are_not_there_are_refused(index: FeatureIndex, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no feature 1000000"):
        write_neuronpedia(index, tmp_path, [0, 1_000_000])
    with pytest.raises(UsageError, match="no features to export"):
        write_neuronpedia(index, tmp_path, [])
    assert list(tmp_path.iterdir()) == []
