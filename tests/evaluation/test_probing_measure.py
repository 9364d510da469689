"""Probing as a part of an evaluation: what it finds in planted activations, what damage it sees, what it records."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from tests.evaluation.test_probing_tasks import long_documents, short_documents
from tests.measured import POINT, D, coder_of, constant_coder, identity_coder, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.coders import SparseCoder
from saescope.errors import CoderError, UsageError
from saescope.evaluation import ActivationCache, Part, Setting, Subject, TextActivations, chosen_parts, measure_parts
from saescope.evaluation.probing import ProbingOptions, features, measure
from saescope.lm import LanguageModel
from saescope.text import Document

BOTH = ProbingOptions(passage_tokens=16, n_articles=2, most=300)
OPTIONS = replace(BOTH, selections=("difference",))
CORPUS = [*short_documents(), *long_documents()]
WORD = " dog"


class Planted(ActivationCache):
    """Activations that are noise, with a 4 in dimension 5 at every token that is the word."""

    def of(self, texts: Sequence[Sequence[int]], points: Sequence[str], told: Any = None) -> TextActivations:
        found = super().of(texts, points, told)
        (word,) = self.lm.tokenizer.encode(WORD)
        generator = torch.Generator().manual_seed(0)
        values = 0.5 * torch.randn(found.tokens.numel(), D, generator=generator)
        values[:, 5] = 4.0 * (found.tokens == word)
        planted = dict.fromkeys(points, values)
        return TextActivations(found.tokens, found.text, found.position, found.pointers, planted)


@pytest.fixture(scope="module")
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


@pytest.fixture
def sets(tmp_path: Path) -> Path:
    """`words`: whether the text has the word. `coin`: nothing the text says."""
    coin = torch.randint(2, (240,), generator=torch.Generator().manual_seed(1)).tolist()
    rows = [(f"the fox {i} reads a{WORD if i % 2 else ' token'}", i % 2, coin[i], i // 2) for i in range(240)]
    for name, column in (("words", 1), ("coin", 2)):
        lines = [json.dumps({"text": row[0], "label": row[column], "group": row[3]}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return tmp_path


def setting_of(
    lm: LanguageModel, tasks: Path | None = None, corpus: Sequence[Document] = (), **options: Any
) -> Setting:
    cache = options.pop("cache", None) or ActivationCache(lm)
    return Setting(lm, list(corpus), cache, tasks, **{"resamples": 100, **options})


def measured(lm: LanguageModel, sets: Path, coder: SparseCoder) -> Part:
    (part,) = measure([Subject(coder)], setting_of(lm, sets, cache=Planted(lm)), OPTIONS)
    return part


def task_of(part: Part, name: str) -> dict[str, Any]:
    (found,) = (task for task in part.facts["tasks"] if task["name"] == name)
    return dict(found)


def test_a_latent_that_is_the_label_tells_all_and_a_coin_is_chance(lm: LanguageModel, sets: Path) -> None:
    part = measured(lm, sets, identity_coder())
    for k in (1, 2, 5, 20):
        assert task_of(part, "words")["probes"]["coder"][f"k{k}"]["accuracy"] == [1.0, 1.0, 1.0]
    assert task_of(part, "words")["probes"]["coder"]["k1"]["features"] == [5]
    assert task_of(part, "words")["probes"]["dimensions"]["k1"]["features"] == [5]
    assert part["labelled_k1_accuracy.words"].found.value == 1.0
    assert part["labelled_k1_accuracy.words"].controls["dense"].value == 1.0
    # One random direction sees dimension 5 through the noise of the others.
    random = part["labelled_k1_accuracy.words"].controls["frozen_random"].value
    assert random is not None
    assert random < 0.95
    for k in (1, 5):
        found = part[f"labelled_k{k}_accuracy.coin"].found
        assert found.interval is not None
        assert found.interval[0] <= 0.5 <= found.interval[1]
    words, coin = (part[f"labelled_k1_accuracy.{name}"].found.value for name in ("words", "coin"))
    assert words is not None
    assert coin is not None
    assert part["labelled_k1_accuracy"].found.value == pytest.approx((words + coin) / 2)


def test_tokens_that_the_rule_leaves_out_are_in_no_mean(lm: LanguageModel, sets: Path) -> None:
    (word,) = lm.tokenizer.encode(WORD)
    rule = {"special_ids": [0, 1, 2, word], "reference_norm": {}, "ratio": 10.0}
    part = measured(lm, sets, identity_coder(kept_rule=rule))
    score = part["labelled_k1_accuracy.words"]
    for estimate in (score.found, score.controls["dense"]):
        assert estimate.interval is not None
        assert estimate.interval[0] <= 0.55
    # Nor are those too long for it: dimension 5 makes the word's rows longer than the others.
    rule = {"special_ids": [0, 1, 2], "reference_norm": {POINT: 3.0}, "ratio": 1.3}
    part = measured(lm, sets, identity_coder(kept_rule=rule))
    found = part["labelled_k1_accuracy.words"].controls["dense"].interval
    assert found is not None
    assert found[0] <= 0.55


@pytest.mark.parametrize("rows_at_once", [1, 7, 4096])
@pytest.mark.parametrize("sparse", [False, True])
def test_pooling_is_the_matrix_product_in_pieces_of_any_size(
    rows_at_once: int, sparse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features, "_ROWS", rows_at_once)
    rng = np.random.default_rng(0)
    dense = rng.random((30, 50)) * (rng.random((30, 50)) < 0.1)
    dense[4] = 0
    weights = scipy.sparse.csr_matrix(dense.astype(np.float32))
    values = np.maximum(rng.standard_normal((50, 8)), 0).astype(np.float32)
    asked = []

    def of(rows: torch.Tensor) -> Any:
        asked.append(len(rows))
        part = values[rows.numpy()]
        return scipy.sparse.csr_matrix(part) if sparse else part

    found = features.pooled(weights, of)
    assert scipy.sparse.issparse(found) == sparse
    np.testing.assert_allclose(found.toarray() if sparse else found, weights.toarray() @ values, atol=1e-5)
    # A piece is never longer than wanted by more than its last example.
    assert max(asked) <= rows_at_once + int(np.diff(weights.indptr).max())


def test_a_text_is_the_mean_of_its_kept_rows(lm: LanguageModel) -> None:
    found = ActivationCache(lm).of([[5, 6, 7, 8], [9], [10, 11], [12, 13]], [POINT])
    kept = torch.tensor([False, True, True, True, False, True, False, True, True])
    weights = features.text_weights(found, kept, np.array([0, 1, 2]))
    expected = np.zeros((3, 9))
    expected[0, 1:4] = 1 / 3
    expected[2, 5] = 1
    np.testing.assert_allclose(weights.toarray(), expected, atol=1e-7)


def test_a_dead_coder_is_chance(lm: LanguageModel, sets: Path) -> None:
    part = measured(lm, sets, constant_coder(torch.zeros(D)))
    for task in part.facts["tasks"]:
        for result in task["probes"]["coder"].values():
            assert result["accuracy"] == [0.5, 0.5, 0.5]
            assert result["auc"] == [0.5, 0.5, 0.5]
    assert part["labelled_k1_accuracy.words"].controls["dense"].value == 1.0


def test_damage_of_the_encoder_shows(lm: LanguageModel, sets: Path) -> None:
    """Shuffled encoder weights are another coder; shuffled latents are the same coder under other numbers."""
    whole = random_coder(d_sae=200, threshold=0.5)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(0))
    renumbered = coder_of(whole.W_enc_rows[order], whole.W_dec[order], threshold=0.5)
    first, second = (task_of(measured(lm, sets, coder), "words") for coder in (whole, renumbered))
    found, again = (task["probes"]["coder"]["k5"] for task in (first, second))
    assert [int(order[i]) for i in again["features"]] == found["features"]
    assert again["accuracy"] == found["accuracy"]
    blind = identity_coder()
    with torch.no_grad():
        blind.W_enc_rows[:, 5] = 0
    seen, unseen = (
        task_of(measured(lm, sets, coder), "words")["probes"]["coder"]["k1"]["accuracy"][0]
        for coder in (identity_coder(), blind)
    )
    assert seen == 1.0
    assert abs(unseen - 0.5) < 0.15


def test_damage_of_the_decoder_does_not_show(lm: LanguageModel, sets: Path) -> None:
    """Probing reads latents: a decoder with permuted rows, or one that shrinks what it writes, passes unseen."""
    whole = random_coder(d_sae=100)
    permuted = coder_of(whole.W_enc_rows, whole.W_dec.flip(0), threshold=0.5)
    shrunk = coder_of(whole.W_enc_rows, 0.1 * whole.W_dec, threshold=0.5)
    for task in ("words", "coin"):
        found = [task_of(measured(lm, sets, coder), task)["probes"]["coder"] for coder in (whole, permuted, shrunk)]
        assert found[0] == found[1] == found[2]


def test_rescaling_a_latent_and_its_decoder_row_changes_nothing(lm: LanguageModel, sets: Path) -> None:
    whole = random_coder(d_sae=100, threshold=0.0)
    scale = torch.linspace(0.2, 5, 100)[:, None]
    scaled = coder_of(whole.W_enc_rows * scale, whole.W_dec / scale, threshold=0.0)
    found, again = (task_of(measured(lm, sets, coder), "words")["probes"]["coder"] for coder in (whole, scaled))
    assert found == again


def test_corpus_tasks_make_the_main_table(lm: LanguageModel) -> None:
    (part,) = measure([Subject(random_coder())], setting_of(lm, corpus=CORPUS), BOTH)
    names = [task["name"] for task in part.facts["tasks"]]
    assert len([name for name in names if name.startswith("article: ")]) == 2
    assert [name for name in names if name.startswith("token: ")]
    assert [name for name in names if name.startswith("next: ")]
    main = [score for score in part.scores if not score.group]
    assert [score.key for score in main[:4]] == [f"probe_k{k}_accuracy" for k in (1, 2, 5, 20)]
    for score in main:
        assert score.controls.keys() == {"dimensions", "frozen_random", "dense"} == part.controls.keys()
        for estimate in (score.found, *score.controls.values()):
            assert estimate.value is not None
            assert estimate.interval is not None
            assert estimate.interval[0] <= estimate.value <= estimate.interval[1]
        assert score.meaning.endswith(".")
        assert score.misleads.endswith(".")
    values = [task["probes"]["coder"]["k5"]["accuracy"][0] for task in part.facts["tasks"]]
    assert part["probe_k5_accuracy"].found.value == pytest.approx(sum(values) / len(values), abs=1e-4)
    beside = part.facts["beside"]["k5"]["accuracy"]["dimensions"]["value"]
    others = part["probe_k5_accuracy"].controls["dimensions"].value
    assert beside == pytest.approx(part["probe_k5_accuracy"].found.value - others, abs=1e-9)  # type: ignore[operator]
    assert len({score.key for score in part.scores}) == len(part.scores)
    other = part["probe_k5_accuracy.standardised"]
    values = [task["probes"]["coder, standardised"]["k5"]["accuracy"][0] for task in part.facts["tasks"]]
    assert other.found.value == pytest.approx(sum(values) / len(values), abs=1e-4)
    assert other.controls["dense"] == part["probe_k5_accuracy"].controls["dense"]
    assert other.controls["dimensions"] != part["probe_k5_accuracy"].controls["dimensions"]
    json.dumps(part.to_dict(), allow_nan=False)
    for refused in part.facts["refused"].get("corpus", {}).values():
        assert "need" in refused or "label" in refused or "few" in refused


def test_what_is_measured_does_not_depend_on_what_is_measured_beside_it(lm: LanguageModel, sets: Path) -> None:
    setting = setting_of(lm, sets, CORPUS)
    subjects = [Subject(random_coder()), Subject(random_coder(seed=5)), Subject(random_coder(reads="resid_post.0"))]

    def numbers(part: Part) -> Any:
        return part.to_dict()["scores"], part.facts["tasks"]

    options = replace(OPTIONS, ks=(2,), most=120)
    together = measure(subjects, setting, options)
    assert len({json.dumps(numbers(part)) for part in together}) == 3
    for subject, part in zip(subjects, together, strict=True):
        assert numbers(measure([subject], setting, options)[0]) == numbers(part)


def test_the_model_runs_each_text_once_for_all(lm: LanguageModel, sets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = []
    run = LanguageModel.run

    def counted(self: LanguageModel, given: torch.Tensor, **options: Any) -> Any:
        tokens.append(int(options["attention_mask"].sum()))
        return run(self, given, **options)

    monkeypatch.setattr(LanguageModel, "run", counted)
    setting = setting_of(lm, sets)
    subjects = [Subject(random_coder()), Subject(random_coder(seed=5, reads="mlp_out.1"))]
    measure(subjects, setting, OPTIONS)
    once = sum(tokens)
    texts = [json.loads(line)["text"] for line in (sets / "words.jsonl").read_text().splitlines()]
    assert once <= 2 * sum(len(lm.tokenizer.encode(text)) for text in texts)
    measure(subjects, setting, OPTIONS)
    assert sum(tokens) == once


def test_a_transcoder_has_no_random_control(lm: LanguageModel, sets: Path) -> None:
    coder = random_coder(reads="mlp_in.1", writes="mlp_out.1")
    part = measured(lm, sets, coder)
    assert part["labelled_k1_accuracy"].controls.keys() == {"dimensions", "dense"}
    assert "writes what it reads" in part.controls["frozen_random"]


def test_trained_documents_make_no_task(lm: LanguageModel) -> None:
    trained = [document.id for document in CORPUS if document.title.startswith("Long")][:-1]
    subject = Subject(random_coder(trained_documents=trained))
    (part,) = measure([subject], setting_of(lm, corpus=CORPUS), OPTIONS)
    articles = [task["name"] for task in part.facts["tasks"] if task["name"].startswith("article: ")]
    assert articles == ["article: Long 3"]
    assert part.facts["sets"]["corpus"]["pool"]["skipped_trained_documents"] == 3


def test_nothing_to_measure_is_absent_and_says_why(lm: LanguageModel, sets: Path) -> None:
    trained = [document.id for document in CORPUS]
    subject = Subject(random_coder(trained_documents=trained))
    (part,) = measure([subject], setting_of(lm, corpus=CORPUS), OPTIONS)
    assert "trained on" in part.absent
    assert part.to_dict() == {"absent": part.absent}
    # With labelled sets there is something, and the record says what is missing.
    (part,) = measure([subject], setting_of(lm, sets, CORPUS), OPTIONS)
    assert not part.absent
    assert "trained on" in part.facts["no_corpus_tasks"]
    assert {score.group for score in part.scores} == {"Labelled sets", "Labelled sets, one by one"}


def test_the_suite_finds_it_by_name(lm: LanguageModel, sets: Path) -> None:
    told: list[tuple[str, int, int]] = []
    setting = setting_of(lm, sets, progress=lambda *found: told.append(found))
    ((part,),) = measure_parts(chosen_parts(["probing"]), [Subject(random_coder())], setting)
    assert (part.name, part.title) == ("probing", "Sparse probing")
    assert told[-1] == ("probe", 2, 2)
    # Both sets have the same texts, which are run for the first.
    assert {stage for stage, _, _ in told} == {"probing: coin", "probe"}


def test_what_cannot_be_probed_is_refused(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(CoderError, match="width"):
        measure([Subject(identity_coder(12))], setting_of(lm, corpus=CORPUS))
    with pytest.raises(UsageError, match="no folder of labelled sets"):
        measure([Subject(random_coder())], setting_of(lm, tmp_path / "nowhere", CORPUS))
    with pytest.raises(UsageError, match="difference"):
        ProbingOptions(selections=("standardised",))
    with pytest.raises(UsageError, match="k must be"):
        ProbingOptions(ks=(0,))


def test_a_coder_that_records_no_rule_gets_a_measured_one(lm: LanguageModel, sets: Path) -> None:
    part = measured(lm, sets, identity_coder(kept_rule={}))
    assert part["labelled_k1_accuracy.words"].found.value == 1.0


@pytest.mark.real
def test_languages_are_told_apart_in_the_real_model(tmp_path: Path) -> None:
    lm = LanguageModel.load("smollm2", device="cpu")
    subjects = ["dog", "cat", "king", "house", "river", "child", "car", "book", "tree", "bird", "friend", "town"]
    sujets = ["chien", "chat", "roi", "château", "pont", "fils", "train", "livre", "sapin", "canard", "voisin", "pays"]
    rows = ["text,label,group"]
    for i, (one, un) in enumerate(zip(subjects, sujets, strict=True)):
        for verb, verbe in (
            ("is very old", "est très vieux"),
            ("was seen by all", "a été vu par tous"),
            ("comes", "vient"),
        ):
            rows += [f"The {one} {verb} today,en,{i}", f"Le {un} {verbe} aujourd'hui,fr,{i}"]
    (tmp_path / "language.csv").write_text("\n".join(rows))
    rule = {"special_ids": sorted(lm.special_ids), "reference_norm": {"resid_post.14": 150.0}, "ratio": 10.0}
    coder = identity_coder(lm.d_model, reads="resid_post.14", kept_rule=rule)
    (part,) = measure([Subject(coder)], setting_of(lm, tmp_path))
    for k in (1, 5):
        value = part[f"labelled_k{k}_accuracy"].found.value
        assert value is not None
        assert value > 0.8
    dense = part["labelled_k1_accuracy"].controls["dense"].value
    assert dense is not None
    assert dense > 0.9


def test_labels_may_be_shared_by_points(lm: LanguageModel, sets: Path) -> None:
    """Dimensions are probed once for coders that read the same, and not mixed up between those that do not."""
    subjects = [Subject(random_coder(reads=point)) for point in (POINT, "resid_post.0", POINT)]
    first, other, again = measure(subjects, setting_of(lm, sets), OPTIONS)
    key = "labelled_k5_accuracy"
    assert first[key].controls["dense"] == again[key].controls["dense"]
    assert first.facts["tasks"][0]["probes"]["dense"] != other.facts["tasks"][0]["probes"]["dense"]
