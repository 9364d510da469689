"""Planted latents have the effects that were planted, on their own class and on no other."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from tests.conftest import train_byte_tokenizer
from tests.measured import POINT, coder_of, documents, tiny_lm
from torch import Tensor

from saescope.coders import SparseCoder
from saescope.evaluation import ActivationCache, Part, Setting, Subject
from saescope.evaluation.code_matrix import code_matrix, decoder_rows
from saescope.evaluation.effects import COUNTS, measure, measure_sets
from saescope.evaluation.effects.ablation import Latents, ProbedSet, effect_of
from saescope.evaluation.effects.class_set import ClassSet
from saescope.evaluation.effects.documents import DocumentPassages, document_passages
from saescope.evaluation.linear_probe import LinearProbes

CLASSES, EXAMPLES, TOKENS = 4, 30, 3
D = 20


def class_set(x: Tensor, classes: int = CLASSES) -> ClassSet:
    n = classes * EXAMPLES
    label = torch.arange(classes).repeat_interleave(EXAMPLES)
    test = (torch.arange(EXAMPLES) < 10).repeat(classes)
    example = torch.arange(n).repeat_interleave(x.shape[0] // n)
    return ClassSet("letters", "First letters", x, example, label, test, tuple("abcd"[:classes]))


def activations() -> Tensor:
    """Class c along dimension c, some noise in the last eight."""
    generator = torch.Generator().manual_seed(0)
    rows = CLASSES * EXAMPLES * TOKENS
    x = torch.zeros(rows, D)
    x[torch.arange(rows), torch.arange(rows) // (EXAMPLES * TOKENS)] = 3 + torch.rand(rows, generator=generator)
    x[:, -8:] = 0.2 * torch.randn(rows, 8, generator=generator)
    return x


def axes(first: int, last: int) -> Tensor:
    return torch.eye(D)[first:last]


def planted(*, scale: float = 1.0, **options: object) -> SparseCoder:
    """A latent a class, and one for each side of the dimensions that hold noise."""
    directions = torch.cat([axes(0, CLASSES), axes(D - 8, D), -axes(D - 8, D)])
    return coder_of(directions, directions * scale, **options)


def measured(coder: SparseCoder, *sets: ClassSet | tuple[str, str]) -> Part:
    part = measure_sets(Subject(coder), list(sets) or [class_set(activations())], resamples=50)
    json.dumps(part.to_dict(), allow_nan=False)
    return part


def effect(part: Part, n: int, control: str | None = None) -> float:
    score = part[f"letters_effect_{n}"]
    found = (score.found if control is None else score.controls[control]).value
    assert found is not None
    return found


def test_every_number_is_explained() -> None:
    part = measured(planted())
    page = (Path(__file__).parents[2] / "docs" / "effects.md").read_text()
    assert "`letters_effect_N`, `documents_effect_N`, N = " + ", ".join(map(str, COUNTS)) in page
    assert all(score.meaning and score.misleads for score in part.scores)
    assert all(set(score.controls) == set(part.controls) for score in part.scores)
    assert all(f"**`{control}`**" in page for control in part.controls)


def test_a_latent_a_class_has_all_of_its_effect_at_home() -> None:
    part = measured(planted())
    facts = part.facts["sets"]["letters"]
    assert facts["classes_counted"] == CLASSES
    for number, name in enumerate("abcd"):
        found = facts["by_class"][name]
        assert found["balanced_accuracy"] == pytest.approx(1.0)
        assert found["latents"][0] == number
        # Every member is lost and no non-member changes sides: from 1 to a half.
        assert found["own_drop"]["2"] == pytest.approx(0.5)
        # A fitted probe may take "none of the other classes" for its own, so one of three others can lose a third of a half.
        assert found["others_drop"]["2"] <= 0.17
    assert effect(part, 2) >= 0.33
    low, high = part["letters_effect_2"].found.interval or (1.0, 0.0)
    assert low <= effect(part, 2) <= high


def known(coder: SparseCoder, x: Tensor, weight: Tensor) -> tuple[Latents, ProbedSet]:
    """A coder's latents, and probes that see class c where x . weight[:, c] is over 1."""
    probed = ProbedSet.of(class_set(x), LinearProbes(weight, torch.ones(CLASSES)))
    assert probed.accuracy.tolist() == pytest.approx([1.0] * CLASSES)
    return Latents.of(code_matrix(coder, x), decoder_rows(coder), probed), probed


def test_a_latent_for_a_known_share_of_a_class_has_that_share_of_the_effect() -> None:
    x = activations()
    # Four of ten held-out examples of class 0 (and of its training examples) carry a mark that silences the class's latent.
    marked = torch.arange(EXAMPLES * TOKENS) // TOKENS % 10 < 4
    x[: EXAMPLES * TOKENS, CLASSES][marked] = 6.0
    coder = planted()
    with torch.no_grad():
        coder.W_enc_rows[0, CLASSES] = -1.0
    latents, probed = known(coder, x, axes(0, CLASSES).T)
    chosen = [latents.attributed(label, 5) for label in range(CLASSES)]
    # Latents for noise are along no probe, so nothing but its own latent is attributed to a class.
    assert chosen == [[label] for label in range(CLASSES)]
    found = effect_of(latents, chosen, probed)
    assert found.own.tolist() == pytest.approx([0.5 * 0.6, 0.5, 0.5, 0.5])
    assert found.others.tolist() == [0.0] * CLASSES
    assert found.targeted == pytest.approx((0.3 + 3 * 0.5) / 4)


def test_a_latent_shared_by_two_classes_hurts_both() -> None:
    shared = torch.cat([axes(0, 1) + axes(1, 2), axes(2, CLASSES)])
    latents, probed = known(coder_of(shared, shared), activations(), axes(0, CLASSES).T)
    chosen = [latents.attributed(label, 1) for label in range(CLASSES)]
    assert chosen == [[0], [0], [1], [2]]
    found = effect_of(latents, chosen, probed)
    assert found.own.tolist() == pytest.approx([0.5] * 4)
    # Of three other probes one falls with it.
    assert found.others.tolist() == pytest.approx([0.5 / 3, 0.5 / 3, 0, 0])


def test_the_error_term_stays() -> None:
    """A class's evidence lies in two directions: with latents for one only, the other half is in the error, and is enough."""
    x = activations()
    x[:, CLASSES : 2 * CLASSES] = x[:, :CLASSES]
    weight = (axes(0, CLASSES) + axes(CLASSES, 2 * CLASSES)).T
    for n_directions, own in ((CLASSES, 0.0), (2 * CLASSES, 0.5)):
        coder = coder_of(axes(0, n_directions), axes(0, n_directions))
        latents, probed = known(coder, x, weight)
        chosen = [latents.attributed(label, 5) for label in range(CLASSES)]
        assert {len(group) for group in chosen} == {n_directions // CLASSES}
        assert effect_of(latents, chosen, probed).own.tolist() == pytest.approx([own] * CLASSES)


@pytest.mark.parametrize(("scale", "own"), [(1.0, 0.5), (0.8, 0.5), (0.6, 0.0), (0.5, 0.0)])
def test_a_shrunk_coder_leaves_what_it_does_not_write(scale: float, own: float) -> None:
    """Of activations between 3 and 4 a share of 1 - scale is left, which is over the threshold of 1 or not."""
    latents, probed = known(planted(scale=scale), activations(), axes(0, CLASSES).T)
    found = effect_of(latents, [latents.attributed(label, 2) for label in range(CLASSES)], probed)
    assert found.own.tolist() == pytest.approx([own] * CLASSES)


def test_matched_latents_fire_about_as_often_and_are_others() -> None:
    rate = np.linspace(0, 1, 200)[None]
    latents = Latents(sparse.csc_matrix((1, 200)), np.zeros((1, 200)), rate, torch.zeros(200, 1))
    drawn = latents.matched(0, [100, 101, 199], np.random.default_rng(0))
    assert len(set(drawn)) == 3
    assert not set(drawn) & {100, 101, 199}
    for one, like in zip(drawn, [100, 101, 199], strict=True):
        assert abs(one - like) <= 24
    few = Latents(sparse.csc_matrix((1, 4)), np.zeros((1, 4)), rate[:, :4], torch.zeros(4, 1))
    assert sorted(few.matched(0, [1, 2, 3], np.random.default_rng(0))) == [0]


def test_random_latents_that_fire_as_often_do_nothing() -> None:
    part = measured(planted())
    assert abs(effect(part, 2, "random_latents")) < 0.02


def test_the_shuffled_decoder_is_the_coder_with_other_rows() -> None:
    latents, probed = known(planted(), activations(), axes(0, CLASSES).T)
    shuffled = latents.with_shuffled_decoder(3)
    assert sorted(shuffled.onto.sum(1).tolist()) == sorted(latents.onto.sum(1).tolist())
    assert shuffled.held_out is latents.held_out
    # What is left writes along no probe where it fires, or fires without meaning the class.
    found = effect_of(shuffled, [shuffled.attributed(label, 2) for label in range(CLASSES)], probed)
    assert abs(found.targeted) < 0.1


def test_a_permuted_decoder_loses_its_effects() -> None:
    coder = planted()
    rows = torch.arange(coder.d_sae).roll(CLASSES)
    with torch.no_grad():
        coder.W_dec.copy_(coder.W_dec[rows])
    part = measured(coder)
    assert all(abs(effect(part, n)) < 0.05 for n in COUNTS)


def test_a_dead_coder_has_no_effect_and_says_so() -> None:
    part = measured(planted(threshold=1e9))
    assert "No latent fires" in part.lead
    for n in COUNTS:
        assert effect(part, n) == effect(part, n, "random_latents") == effect(part, n, "frozen_random") == 0.0


def test_classes_that_no_probe_tells_apart_are_a_reason() -> None:
    noise = torch.randn(CLASSES * EXAMPLES, D, generator=torch.Generator().manual_seed(1))
    part = measured(planted(), class_set(noise), ("documents", "no text"))
    assert "balanced accuracy" in part.absent
    assert "documents: no text" in part.absent


def test_a_missing_set_is_named_beside_the_other() -> None:
    part = measured(planted(), class_set(activations()), ("documents", "no text"))
    assert part.facts["missing_sets"] == {"documents": "no text"}
    assert {score.group for score in part.scores} == {"First letters"}


@pytest.fixture(scope="module")
def setting(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    lm = tiny_lm(train_byte_tokenizer(), "effects")
    cache = ActivationCache(lm, Path(tmp_path_factory.mktemp("cache")))
    return Setting(lm, documents(6, words=400), cache, resamples=20)


def passages_of(setting: Setting, subject: Subject, trained: set[str] | None = None) -> DocumentPassages:
    found = document_passages(subject, trained or set(), setting)
    assert isinstance(found, DocumentPassages)
    return found


def test_passages_are_of_untrained_documents_and_parted_in_their_order(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.evaluation.effects.documents.LEAST_PASSAGES", 9)
    monkeypatch.setattr("saescope.evaluation.effects.documents.PASSAGES", 12)
    texts = list(setting.corpus)
    subject = Subject(planted(sequences={"context": 16}))
    found = passages_of(setting, subject, {texts[2].id})
    assert set(found.titles) == {f"Document {number}" for number in range(6) if number != 2}
    assert {len(text) for text in found.texts} == {32}
    assert torch.bincount(found.label).tolist() == [12] * 5
    for label in range(5):
        held_out = found.test[found.label == label]
        assert held_out.tolist() == [False] * 8 + [True] * 4
    source = setting.lm.tokenizer.decode(found.texts[0])
    assert source in texts[int(found.titles[0].split()[1])].text
    reason = document_passages(subject, {text.id for text in texts}, setting)
    assert isinstance(reason, str)
    assert "trained" in reason


def test_from_documents_to_the_numbers(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saescope.evaluation.effects.documents.LEAST_PASSAGES", 9)
    monkeypatch.setattr("saescope.evaluation.effects.ablation.LEAST_ACCURACY", 0.4)
    width = setting.lm.width(POINT)
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    transcoder = coder_of(both, both, reads="mlp_in.1", writes="mlp_out.1")
    part, absent = measure([Subject(coder_of(both, both)), Subject(transcoder)], setting)
    json.dumps(part.to_dict(), allow_nan=False)
    assert "vocabulary" in part.facts["missing_sets"]["letters"]
    assert [score.key for score in part.scores] == [f"documents_effect_{n}" for n in COUNTS]
    assert all(set(score.controls) == {"random_latents", "shuffled_decoder", "frozen_random"} for score in part.scores)
    assert absent.absent.startswith("ablating a transcoder's latents")
