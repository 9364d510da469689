"""Generation: under the KV cache, with left padding and edits, the same as each prompt alone and no cache."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saescope.errors import UsageError
from saescope.lm import Edit, LanguageModel, Positions

PROMPTS = [[7, 8, 9, 10, 11, 12, 13, 14, 15], [20, 21, 22], [1, 30, 31, 32, 33, 34]]


def alone_without_cache(lm: LanguageModel, prompt: list[int], edits: list[Edit], n: int) -> list[int]:
    """Greedy continuation of one unpadded prompt, the whole sequence computed anew for every token."""
    sequence = list(prompt)
    for _ in range(n):
        logits = lm.run(torch.tensor([sequence], device=lm.device), edits=edits, logits=True).logits
        sequence.append(int(logits[0, -1].argmax()))
    return sequence[len(prompt) :]


def padded(prompts: list[list[int]]) -> tuple[Tensor, Tensor]:
    longest = max(map(len, prompts))
    tokens = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    return tokens, mask


def edits_by_position(lm: LanguageModel, scale: float = 1.0) -> list[Edit]:
    """Edits whose effect depends on where in its sequence a token stands."""
    direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(6)) * scale

    def steer(values: Tensor, positions: Positions) -> Tensor:
        strength = (positions.index % 5).unsqueeze(-1).to(values.dtype)
        return values + strength * direction

    def blank_every_third(values: Tensor, positions: Positions) -> Tensor:
        return torch.where((positions.index % 3 == 2).unsqueeze(-1), 0.0, values)

    return [Edit("resid_post.1", steer), Edit("attn_out_post.0", blank_every_third), Edit("z.2", blank_every_third)]


def endless(lm: LanguageModel) -> LanguageModel:
    """The same model, never ending a text of its own accord."""
    lm._stop_ids = frozenset()  # type: ignore[misc]
    return lm


@pytest.mark.parametrize("edited", [False, True])
def test_a_batch_generates_what_each_prompt_does_alone(family_lm: LanguageModel, edited: bool) -> None:
    lm = endless(LanguageModel.from_hf(family_lm.hf_model, family_lm.tokenizer))
    edits = edits_by_position(lm) if edited else []
    tokens, mask = padded(PROMPTS)
    together = lm.generate(tokens, attention_mask=mask, edits=edits, max_new_tokens=12)
    expected = [alone_without_cache(lm, prompt, edits, 12) for prompt in PROMPTS]
    assert together.tokens == expected
    if edited:
        assert together.tokens != lm.generate(tokens, attention_mask=mask, max_new_tokens=12).tokens


def test_padding_on_the_right_is_moved_out_of_the_way(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("gpt2")
    tokens, mask = padded(PROMPTS)
    right = torch.zeros_like(tokens)
    right_mask = torch.zeros_like(mask)
    for row, prompt in enumerate(PROMPTS):
        right[row, : len(prompt)], right_mask[row, : len(prompt)] = torch.tensor(prompt), 1
    left = lm.generate(tokens, attention_mask=mask, max_new_tokens=6)
    assert lm.generate(right, attention_mask=right_mask, max_new_tokens=6) == left


def test_text_and_its_tokens_generate_the_same(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    texts = lm.generate(["w7 w8 w9", "w20"], max_new_tokens=5)
    tokens, mask = padded([[7, 8, 9], [20]])
    assert texts == lm.generate(tokens, attention_mask=mask, max_new_tokens=5)
    assert texts.texts == [lm.tokenizer.decode(row, skip_special_tokens=True) for row in texts.tokens]
    assert lm.generate("w20", max_new_tokens=5).tokens == [texts.tokens[1]]


def test_edits_count_positions_on_through_generation(tiny: Callable[[str], LanguageModel]) -> None:
    lm = endless(LanguageModel.from_hf(tiny("llama").hf_model, tiny("llama").tokenizer))
    seen: list[list[list[int]]] = []

    def record(values: Tensor, positions: Positions) -> Tensor:
        seen.append(positions.index.tolist())
        return values

    lm.generate(["w7 w8 w9 w10", "w20 w21"], edits=[Edit("resid_post.0", record)], max_new_tokens=4)
    assert seen == [[[0, 1, 2, 3], [-1, -1, 0, 1]], [[4], [2]], [[5], [3]], [[6], [4]]]


def test_a_row_ends_at_its_own_end_of_sequence(tiny: Callable[[str], LanguageModel]) -> None:
    base = tiny("llama")
    lm = endless(LanguageModel.from_hf(base.hf_model, base.tokenizer))
    tokens, mask = padded(PROMPTS)
    free = lm.generate(tokens, attention_mask=mask, max_new_tokens=12).tokens
    n = next(place for place in range(3, 12) if free[0][place] not in free[0][:place]) + 1
    stop = free[0][n - 1]
    lm._stop_ids = frozenset({stop})  # type: ignore[misc]
    seen: list[list[bool]] = []

    def record(values: Tensor, positions: Positions) -> Tensor:
        seen.append(positions.real[:, -1].tolist())
        return values

    stopped = lm.generate(tokens, attention_mask=mask, max_new_tokens=12, edits=[Edit("resid_post.0", record)])
    assert stopped.tokens == [row[: row.index(stop) + 1] if stop in row else row for row in free]
    assert [step[0] for step in seen] == [True] * n + [False] * (len(seen) - n)
    assert lm.generate(tokens[:1], max_new_tokens=12).tokens == [free[0][:n]]


def test_the_models_own_end_of_sequence_is_known(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    end = Edit("lm_head", lambda values, positions: values + 1e4 * torch.nn.functional.one_hot(torch.tensor(2), 101))
    generation = lm.generate(["w7 w8", "w9"], edits=[end], max_new_tokens=8)
    assert generation.tokens == [[2], [2]]
    assert generation.texts == ["", ""]


def test_samples_follow_the_models_distribution(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    logits = lm.run(torch.tensor([[7, 8, 9]]), logits=True).logits[0, -1]
    n = 4000
    drawn = lm.generate(torch.tensor([[7, 8, 9]] * n), max_new_tokens=1, temperature=3.0).tokens
    counts = torch.bincount(torch.tensor(drawn).flatten(), minlength=101)
    expected = (logits / 3.0).softmax(-1) * n
    big = expected > 5
    chi_squared = float(((counts - expected)[big] ** 2 / expected[big]).sum())
    # 4.5 standard deviations above the mean of a chi-squared of that many degrees of freedom.
    degrees = int(big.sum())
    assert chi_squared < degrees + 4.5 * (2 * degrees) ** 0.5

    ranked = (logits / 3.0).softmax(-1).sort(descending=True)
    kept = ranked.indices[: int((ranked.values.cumsum(0) < 0.5).sum()) + 1].tolist()
    nucleus = lm.generate(torch.tensor([[7, 8, 9]] * 1000), max_new_tokens=1, temperature=3.0, top_p=0.5).tokens
    assert {row[0] for row in nucleus} == set(kept)


def test_a_sample_depends_on_its_seed_and_not_on_its_neighbours(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    tokens, mask = padded(PROMPTS)
    together = lm.generate(tokens, attention_mask=mask, max_new_tokens=8, temperature=1.5, seed=10).tokens
    again = lm.generate(tokens, attention_mask=mask, max_new_tokens=8, temperature=1.5, seed=10).tokens
    assert together == again
    assert together != lm.generate(tokens, attention_mask=mask, max_new_tokens=8, temperature=1.5, seed=11).tokens
    for row, prompt in enumerate(PROMPTS):
        alone = lm.generate(torch.tensor([prompt]), max_new_tokens=8, temperature=1.5, seed=10 + row).tokens
        assert alone == [together[row]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"temperature": -1.0}, "temperature -1.0"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": ["w7", ""]}, "prompt '' has no tokens"),
        ({"prompts": ["w7"], "attention_mask": torch.ones(1, 1)}, "attention_mask goes with"),
        ({"max_new_tokens": -1}, "max_new_tokens -1"),
    ],
)
def test_bad_requests_are_refused_in_one_line(
    tiny: Callable[[str], LanguageModel], arguments: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        tiny("llama").generate(**{"prompts": ["w7"], **arguments})
    assert "\n" not in str(caught.value)


def test_no_new_tokens_is_nothing(tiny: Callable[[str], LanguageModel]) -> None:
    assert tiny("llama").generate(["w7"], max_new_tokens=0).tokens == [[]]


@pytest.mark.real
@pytest.mark.parametrize("edited", [False, True])
def test_smollm2_generates_in_a_batch_what_it_does_alone(smollm2: LanguageModel, edited: bool) -> None:
    texts = ["The Eiffel Tower is located in the city of", "Water boils at", "Once upon a time, in a small village,"]
    edits = edits_by_position(smollm2, scale=0.5) if edited else []
    together = smollm2.generate(texts, edits=edits, max_new_tokens=10)
    for text, tokens in zip(texts, together.tokens, strict=True):
        prompt = smollm2.tokenizer(text)["input_ids"]
        assert tokens == alone_without_cache(smollm2, prompt, edits, len(tokens))
    if not edited:
        assert "Paris" in together.texts[0]
