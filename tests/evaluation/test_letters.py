"""Planted latents give the splits and the absorption that were planted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import sparse
from tests.measured import POINT, coder_of, tiny_lm
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from saescope.coders import SparseCoder
from saescope.evaluation import ActivationCache, Part, Setting, Subject
from saescope.evaluation.letters import Shared, measure, measure_examples
from saescope.evaluation.letters.absorption import absorption
from saescope.evaluation.letters.examples import LetterExamples, letter_examples
from saescope.evaluation.letters.splitting import Candidates, letter_features
from saescope.evaluation.letters.words import Words, vocabulary_words
from saescope.lm import LanguageModel

LETTERS, WORDS, HELD_OUT = 6, 60, 12
MARKERS = 16  # The first dimension that marks single words or groups of one letter's words.
D = 40


def words() -> Words:
    letter = torch.arange(LETTERS).repeat_interleave(WORDS)
    test = (torch.arange(WORDS) < HELD_OUT).repeat(LETTERS)
    return Words(torch.arange(LETTERS * WORDS), letter, test, tuple("abcdef"), 999)


def activations(seed: int = 0) -> Tensor:
    """Letter l along dimension l, some noise in ten more, nothing at the markers."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.zeros(LETTERS * WORDS, D)
    x[torch.arange(len(x)), words().letter] = 4 + torch.rand(len(x), generator=generator)
    x[:, LETTERS:MARKERS] = 0.1 * torch.randn(len(x), MARKERS - LETTERS, generator=generator)
    return x


def axes(*dimensions: int) -> Tensor:
    return torch.eye(D)[list(dimensions)]


def measured(coder: SparseCoder, x: Tensor) -> Part:
    part = measure_examples(Subject(coder), LetterExamples(words(), x, x), Shared(resamples=50))
    json.dumps(part.to_dict(), allow_nan=False)
    return part


def value(part: Part, key: str) -> float | None:
    return part[key].found.value


def test_every_number_is_explained() -> None:
    directions = axes(*range(LETTERS))
    part = measured(coder_of(directions, directions, threshold=1.0), activations())
    page = (Path(__file__).parents[2] / "docs" / "absorption.md").read_text()
    for score in part.scores:
        assert f"| `{score.key}` |" in page
        assert score.meaning
        assert score.misleads
        assert set(score.controls) <= set(part.controls)
    assert all(f"**`{control}`**" in page for control in part.controls)


def test_a_latent_a_letter() -> None:
    directions = axes(*range(LETTERS))
    part = measured(coder_of(directions, directions, threshold=1.0), activations())
    assert value(part, "k1_f1") == value(part, "split_f1") == 1.0
    assert value(part, "split_latents") == 1.0
    assert value(part, "full_absorption_rate") == value(part, "absorption_fraction") == 0.0
    assert part["k1_f1"].controls["dense_probe"].value == 1.0
    assert part["k1_f1"].controls["dimension"].value == 1.0
    by_letter = part.facts["by_letter"]
    assert [by_letter[letter]["split_latents"] for letter in "abcdef"] == [[number] for number in range(LETTERS)]
    random = part["k1_f1"].controls["frozen_random"].value
    assert random is not None
    assert random < 0.9


@pytest.mark.parametrize("groups", [2, 3, 4])
def test_split_latents_are_counted(groups: int) -> None:
    x = activations()
    of_first = torch.arange(WORDS) % groups
    x[torch.arange(WORDS), MARKERS + of_first] = 3.0
    others = axes(*range(1, LETTERS))
    split = axes(0).repeat(groups, 1) / 4 + axes(*range(MARKERS, MARKERS + groups))
    encoder = torch.cat([others, split])
    part = measured(coder_of(encoder, torch.cat([others, axes(0).repeat(groups, 1)]), threshold=2.0), x)
    found = part.facts["by_letter"]["a"]
    assert sorted(found["split_latents"]) == list(range(LETTERS - 1, LETTERS - 1 + groups))
    assert found["split_f1"] == 1.0 > found["k1_f1"]
    assert value(part, "split_latents") == pytest.approx((LETTERS - 1 + groups) / LETTERS)
    assert value(part, "full_absorption_rate") == 0.0


def absorbing(absorbed: list[int], share: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Activations and a coder in which some words of the first letter have a latent of their own, which silences the
    letter's latent there and writes `share` of the letter's direction."""
    x = activations()
    markers = [MARKERS + place for place in range(len(absorbed))]
    x[absorbed, markers] = 6.0
    letters = axes(*range(LETTERS))
    encoder = letters.clone()
    encoder[0] -= axes(*markers).sum(0)
    own = axes(*markers)
    return x, torch.cat([encoder, own]), torch.cat([letters, own / 6 + share * 4.5 / 6 * axes(0)])


@pytest.mark.parametrize("count", [0, 3, 6])
def test_full_absorption_is_the_planted_share(count: int) -> None:
    x, encoder, decoder = absorbing([*range(count), HELD_OUT + 1, HELD_OUT + 5])
    part = measured(coder_of(encoder, decoder, threshold=1.0), x)
    found = part.facts["by_letter"]["a"]
    assert found["split_latents"] == [0]
    assert found["words_counted"] == HELD_OUT
    assert found["full_absorption_rate"] == count / HELD_OUT
    assert found["absorption_fraction"] == pytest.approx(count / HELD_OUT)
    assert value(part, "full_absorption_rate") == pytest.approx(count / HELD_OUT / LETTERS)
    # Any four of the rows that come to lie under the words' own latents write some of the letter with hardly a chance.
    by_chance = part["full_absorption_rate"].controls["shuffled_decoder"].value
    assert by_chance is not None
    assert by_chance <= value(part, "full_absorption_rate")
    low, high = part["full_absorption_rate"].found.interval or (None, None)
    assert low is not None
    assert low <= count / HELD_OUT / LETTERS <= high


def test_words_that_the_probe_gets_wrong_are_not_looked_at() -> None:
    x, encoder, decoder = absorbing([0, 1, 2])
    # Two of the absorbed words look like another letter's; one of the first letter's is left that is absorbed.
    x[:2] = 4.5 * axes(1, 2)[:1]
    found = measured(coder_of(encoder, decoder, threshold=1.0), x).facts["by_letter"]["a"]
    assert found["words_right"] == HELD_OUT - 2
    assert found["full_absorption_rate"] == pytest.approx(1 / (HELD_OUT - 2))


def test_a_decoder_that_points_elsewhere_absorbs_nothing() -> None:
    x, encoder, decoder = absorbing([0, 1, 2, 3])
    decoder[LETTERS:] = axes(*range(MARKERS + 10, MARKERS + 14))
    found = measured(coder_of(encoder, decoder, threshold=1.0), x).facts["by_letter"]["a"]
    assert found["full_absorption_rate"] == found["absorption_fraction"] == 0.0


def test_a_coder_shrunk_by_half_keeps_its_probes_and_hides_its_absorption() -> None:
    x, encoder, decoder = absorbing([0, 1, 2, 3], share=0.7)
    whole = measured(coder_of(encoder, decoder, threshold=1.0), x)
    half = measured(coder_of(encoder, decoder / 2, threshold=1.0), x)
    for key in ("k1_f1", "split_f1", "split_latents"):
        assert value(half, key) == value(whole, key)
    assert whole.facts["by_letter"]["a"]["full_absorption_rate"] == 4 / HELD_OUT
    assert half.facts["by_letter"]["a"]["full_absorption_rate"] == 0.0


def test_a_dead_coder_has_no_splits_and_no_absorption() -> None:
    directions = axes(*range(LETTERS))
    part = measured(coder_of(directions, directions, threshold=1e9), activations())
    assert value(part, "k1_f1") == 0.0
    for key in ("split_latents", "full_absorption_rate", "absorption_fraction"):
        assert part[key].found.value is None
        assert part[key].found.interval is None
    assert "No latent fires" in part.lead


def test_activations_without_letters_are_said_to_have_none() -> None:
    x = torch.randn(LETTERS * WORDS, D, generator=torch.Generator().manual_seed(3))
    directions = axes(*range(LETTERS))
    part = measured(coder_of(directions, directions), x)
    assert part.absent.startswith("no first letter can be read off the activations")


def test_a_transcoder_is_measured_where_it_writes_without_the_random_control() -> None:
    directions = axes(*range(LETTERS))
    part = measured(coder_of(directions, directions, threshold=1.0, writes="mlp_out.1"), activations())
    assert value(part, "k1_f1") == 1.0
    assert set(part["k1_f1"].controls) == {"dimension", "dense_probe"}
    assert "transpose" in part.facts["frozen_random"]["absent"] or part.facts["frozen_random"]["absent"]


# One word whose activation is 10 along the probe: contributions of (main latent, others), cosines of the others.
CASES = [
    ("main carries it all", 10.0, [4.0], [1.0], False, 0.0),
    ("others carry too little", 1.0, [3.9], [1.0], False, 0.0),
    ("main silent, one other takes over", 0.0, [5.0], [0.5], True, 1.0),
    ("main silent, the other below .4", 0.0, [3.9], [0.5], False, 0.0),
    ("main silent, the other barely aligned", 0.0, [5.0], [0.02], False, 0.0),
    ("aligned enough for full, not for the fraction", 0.0, [5.0], [0.05], True, 0.0),
    ("main halved", 4.0, [4.0], [1.0], False, 0.5),
    ("no more than what main leaves", 5.0, [20.0], [1.0], False, 0.5),
    ("only the three largest", 4.0, [1.0, 1.0, 2.0, 1.0], [1.0] * 4, False, 0.5),
    ("main writes against the letter", -1.0, [8.0], [1.0], False, 1.0),
    ("nothing but an error", 0.0, [], [], False, 0.0),
]


@pytest.mark.parametrize(("name", "main", "others", "cosines", "full", "fraction"), CASES, ids=[c[0] for c in CASES])
@pytest.mark.parametrize("length", [1.0, 7.0])
def test_absorption_by_its_definition(
    name: str, main: float, others: list[float], cosines: list[float], full: bool, fraction: float, length: float
) -> None:
    unit = torch.tensor([1.0, 0.0])
    directions = torch.tensor([[1.0, 0.0], *([c, (1 - c * c) ** 0.5] for c in cosines)])
    if main < 0:
        directions[0] *= -1
    values = torch.tensor([abs(main), *(part / c for part, c in zip(others, cosines, strict=True))])
    # Only f·‖W_dec‖ counts: rows of any length with activations to match are the same coder.
    codes = sparse.csr_matrix((values / length).numpy()[None])
    codes.eliminate_zeros()
    found = absorption(codes, directions * length, unit, torch.tensor([10.0]), [0])
    assert bool(found.counted)
    assert bool(found.full) is full
    assert float(found.fraction) == pytest.approx(fraction)


def test_words_against_the_probe_are_not_counted() -> None:
    codes = sparse.csr_matrix(np.ones((2, 1), dtype=np.float32))
    found = absorption(codes, torch.ones(1, 1), torch.ones(1), torch.tensor([-1.0, 2.0]), [])
    assert found.counted.tolist() == [False, True]
    assert found.full.tolist() == [False, True]


def test_redundant_latents_do_not_hide_the_one_that_is_missing() -> None:
    member = torch.arange(200) < 40
    first, rest = (torch.arange(200) < 30).float(), ((torch.arange(200) >= 30) & member).float()
    features = sparse.csr_matrix(torch.stack([first, first * 2, first * 3, rest], 1).numpy())
    found = letter_features(Candidates(features), member)
    assert len(found.split.chosen) == 2
    assert 3 in found.split.chosen
    assert found.split.train_f1[-1] == 1.0


def test_scaling_a_latent_changes_no_choice() -> None:
    generator = torch.Generator().manual_seed(0)
    member = torch.arange(300) < 60
    # More than are looked at, so that the ranking matters as well.
    features = torch.rand(300, 120, generator=generator) * (torch.rand(300, 120, generator=generator) < 0.4)
    features[:60, :3] += 0.4
    scale = torch.logspace(-3, 3, 120)
    one, other = (
        letter_features(Candidates(sparse.csr_matrix((features * by).numpy())), member) for by in (1.0, scale)
    )
    assert one.split.chosen == other.split.chosen
    assert one.split.train_f1 == pytest.approx(other.split.train_f1)


def word_tokenizer(per_letter: int = 40) -> PreTrainedTokenizerFast:
    """Words of a and b that are tokens, among others that are not whole lower-case words."""
    real = [f"Ġ{letter}{chr(97 + i // 26)}{chr(97 + i % 26)}" for letter in "ab" for i in range(per_letter)]
    other = ["abc", "Ġab", "Ġa1c", "ĠAbc", "Ġcat", "The", "Ġword", "Ġaé", "."]
    vocabulary = {word: number for number, word in enumerate(["<|endoftext|>", "<bos>", "<pad>", *other, *real])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<bos>", pad_token="<pad>"
    )


def test_words_are_whole_lower_case_tokens_split_by_letter() -> None:
    tokenizer = word_tokenizer()
    found = vocabulary_words(tokenizer)
    assert found is not None
    assert found.letters == ("a", "b")
    assert found.token.unique().numel() == found.token.numel() == found.found == 80
    text = [tokenizer.decode([token]) for token in found.token.tolist()]
    assert all(word.strip()[0] == found.letters[letter] for word, letter in zip(text, found.letter, strict=True))
    assert torch.bincount(found.letter[found.test]).tolist() == [8, 8]
    texts = found.texts(tokenizer, [1])
    assert {tuple(one[:-1]) for one in texts} == {(1, *tokenizer.convert_tokens_to_ids(["The", "Ġword"]))}
    assert [one[-1] for one in texts] == found.token.tolist()
    assert vocabulary_words(word_tokenizer(20)) is None


def setting_of(lm: LanguageModel) -> Setting:
    return Setting(lm, [], ActivationCache(lm), resamples=20)


def test_from_the_vocabulary_to_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A random model knows no letters; whatever it gives is a number with its controls, or a reason."""
    monkeypatch.setattr("saescope.evaluation.letters.outcome.LEAST_F1", 0.1)
    lm = tiny_lm(word_tokenizer())
    width = lm.width(POINT)
    both = torch.cat([torch.eye(width), -torch.eye(width)])
    subjects = [Subject(coder_of(both, both)), Subject(coder_of(both, both, threshold=0.5))]
    told: list[str] = []
    setting = Setting(lm, [], ActivationCache(lm), resamples=20, progress=lambda stage, done, total: told.append(stage))
    for part in measure(subjects, setting):
        json.dumps(part.to_dict(), allow_nan=False)
        assert not part.absent
        assert part.facts["words"] == {
            "in_vocabulary": 80,
            "train": 64,
            "test": 16,
            "left_out_as_special_or_sink": 0,
        }
    assert {"first letters", "run words"} <= set(told)


def test_a_vocabulary_without_words_is_a_reason(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    lm = tiny_lm(byte_tokenizer)
    (part,) = measure([Subject(coder_of(torch.eye(24), torch.eye(24)))], setting_of(lm))
    assert "vocabulary" in part.absent


def test_a_rule_that_leaves_a_letter_without_words_is_a_reason() -> None:
    lm = tiny_lm(word_tokenizer())
    width = lm.width(POINT)
    subject = Subject(coder_of(torch.eye(width), torch.eye(width)))
    special = vocabulary_words(lm.tokenizer)
    assert special is not None
    of_a = special.token[special.letter == 0].tolist()
    subject.coder.metadata.kept_rule = {"special_ids": of_a, "reference_norm": {}, "ratio": 10.0}
    (part,) = measure([subject], setting_of(lm))
    assert "40 of 80 words" in part.absent


@pytest.mark.real
def test_a_coder_made_of_the_probes_is_as_good_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """SmolLM2 holds first letters at its middle; latents along the probes find them, alone and without absorption."""
    monkeypatch.setattr("saescope.evaluation.letters.words.MOST_WORDS", 80)
    monkeypatch.setattr("saescope.evaluation.letters.words.LEAST_WORDS", 1000)
    lm = LanguageModel.load("smollm2", device="cpu")
    point = "resid_post.14"
    setting = setting_of(lm)
    found = vocabulary_words(lm.tokenizer)
    assert found is not None
    rule = {"special_ids": sorted(lm.special_ids), "reference_norm": {point: 150.0}, "ratio": 10.0}
    stand_in = Subject(coder_of(torch.eye(lm.d_model), torch.eye(lm.d_model), reads=point, kept_rule=rule))
    examples = letter_examples(stand_in, found, setting)
    assert isinstance(examples, LetterExamples)
    assert examples.left_out == 0
    probes = examples.probes()
    coder = coder_of(probes.weight.T, probes.unit.T, reads=point, kept_rule=rule)
    with torch.no_grad():
        coder.extra("threshold").copy_(probes.threshold)
    (part,) = measure([Subject(coder)], setting)
    dense = part["k1_f1"].controls["dense_probe"].value
    assert dense is not None
    assert dense > 0.75
    assert part["k1_f1"].found.value == pytest.approx(dense, abs=0.08)
    assert part["split_latents"].found.value == 1.0
    assert part["full_absorption_rate"].found.value == 0.0
    dimension = part["k1_f1"].controls["dimension"].value
    assert dimension is not None
    assert dimension < dense - 0.2
