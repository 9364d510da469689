"""Token-by-token generation: the same tokens as `generate`, nothing held in between, a clean end when closed."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saescope.errors import ModelError, UsageError
from saescope.lm import Edit, LanguageModel, Positions

PROMPTS = ["w7 w8 w9 w10 w11", "w20 w21", "w30 w31 w32"]


def per_row(steps: list[list[int | None]]) -> list[list[int]]:
    return [[token for token in row if token is not None] for row in zip(*steps, strict=True)]


def push(lm: LanguageModel) -> Edit:
    direction = torch.randn(lm.d_model, generator=torch.Generator().manual_seed(6)).to(lm.dtype)

    def change(values: Tensor, positions: Positions) -> Tensor:
        return values + (positions.index % 4).unsqueeze(-1).to(values.dtype) * direction

    return Edit("resid_post.1", change)


def n_hooks(lm: LanguageModel) -> int:
    modules = list(lm.hf_model.modules())
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)


@pytest.mark.parametrize("arguments", [{}, {"temperature": 1.5, "seed": 3}, {"temperature": 1.2, "top_p": 0.7}])
@pytest.mark.parametrize("edited", [False, True])
def test_a_stream_says_what_generate_does(family_lm: LanguageModel, arguments: dict[str, float], edited: bool) -> None:
    edits = [push(family_lm)] if edited else []
    whole = family_lm.generate(PROMPTS, edits=edits, max_new_tokens=9, **arguments)  # type: ignore[arg-type]
    steps = list(family_lm.stream(PROMPTS, edits=edits, max_new_tokens=9, **arguments))  # type: ignore[arg-type]
    assert per_row(steps) == whole.tokens
    assert len(steps) == max(map(len, whole.tokens))


def test_streams_take_turns_with_each_other_and_with_runs(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    tokens = torch.tensor([[7, 8, 9]])
    plain = lm.run(tokens, logits=True).logits
    alone = [
        list(lm.stream([PROMPTS[0]], edits=[push(lm)], max_new_tokens=6)),
        list(lm.stream([PROMPTS[1]], max_new_tokens=6)),
    ]
    first, second = (
        lm.stream([PROMPTS[0]], edits=[push(lm)], max_new_tokens=6),
        lm.stream([PROMPTS[1]], max_new_tokens=6),
    )
    together: list[list[list[int | None]]] = [[], []]
    for _ in range(6):
        for mine, stream in zip(together, (first, second), strict=True):
            mine += [said for said in [next(stream, None)] if said is not None]
            # Between two steps the model is free and unedited, also for this thread.
            assert torch.equal(lm.run(tokens, logits=True).logits, plain)  # type: ignore[arg-type]
    assert together == alone


def test_streams_of_several_threads_do_not_mix(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("gpt2")
    edits = [[], [push(lm)], [], [push(lm)]]
    expected = [lm.generate([PROMPTS[0]], edits=own, max_new_tokens=12).tokens for own in edits]
    found: dict[int, list[list[int]]] = {}

    def work(number: int) -> None:
        found[number] = per_row(list(lm.stream([PROMPTS[0]], edits=edits[number], max_new_tokens=12)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(4)] == expected
    assert expected[0] != expected[1]


def test_closing_ends_it_and_leaves_nothing_on_the_model(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    before = n_hooks(lm)
    calls = []
    count = Edit("resid_post.0", lambda values, positions: (calls.append(1), values)[1])
    stream = lm.stream(PROMPTS, edits=[count], max_new_tokens=50)
    assert not calls
    next(stream)
    next(stream)
    assert n_hooks(lm) == before
    stream.close()
    assert len(calls) == 2
    assert list(stream) == []
    assert len(calls) == 2
    assert torch.is_grad_enabled()


def test_a_step_that_fails_frees_the_model(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    before = n_hooks(lm)

    def wrong(values: Tensor, positions: Positions) -> Tensor:
        return values[:, :, 1:] if int(positions.index.max()) > 4 else values

    stream = lm.stream(["w7 w8 w9 w10 w11"], edits=[Edit("resid_post.1", wrong)], max_new_tokens=5)
    next(stream)
    with pytest.raises(ModelError, match="must keep it"):
        next(stream)
    assert n_hooks(lm) == before
    lm.run(torch.tensor([[7]]), logits=True)


def test_arguments_are_refused_before_the_first_step(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    with pytest.raises(UsageError, match="max_new_tokens -1"):
        lm.stream(["w7"], max_new_tokens=-1)
    with pytest.raises(UsageError, match="temperature"):
        lm.stream(["w7"], temperature=-1)
    with pytest.raises(UsageError, match="not a hook point"):
        lm.stream(["w7"], edits=[Edit("resid_pst.1", lambda values, positions: values)])
    with pytest.raises(UsageError, match="2 seeds were given for 1 prompts"):
        lm.stream(["w7"], seed=(1, 2))


def test_rows_of_one_seed_draw_alike(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    same = per_row(list(lm.stream(["w7 w8"] * 2, seed=(5, 5), temperature=2.0, max_new_tokens=8)))
    assert same[0] == same[1]
    assert same[0] == lm.generate(["w7 w8"], seed=5, temperature=2.0, max_new_tokens=8).tokens[0]
    other = per_row(list(lm.stream(["w7 w8"] * 2, seed=5, temperature=2.0, max_new_tokens=8)))
    assert other[0] == same[0] != other[1]


def test_an_edit_is_told_the_tokens_it_stands_on(tiny: Callable[[str], LanguageModel]) -> None:
    lm = tiny("llama")
    seen: list[list[list[int]]] = []

    def record(values: Tensor, positions: Positions) -> Tensor:
        seen.append([row[own].tolist() for row, own in zip(positions.tokens, positions.real, strict=True)])
        return values

    steps = list(lm.stream(["w7 w8 w9", "w20"], edits=[Edit("resid_post.0", record)], max_new_tokens=4))
    assert seen[0] == [[7, 8, 9], [20]]
    assert [[row[0] if row else None for row in step] for step in seen[1:]] == steps[:-1]
