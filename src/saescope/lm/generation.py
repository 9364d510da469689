"""Generation with edits, under a KV cache, for prompts of different lengths in one batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import ModelError, UsageError
from saescope.lm.edits import Positions
from saescope.lm.hooks import RunHooks


@dataclass(frozen=True)
class Generation:
    """Per prompt: the new tokens, ending with the end-of-sequence token where there was one, and their text
    without special tokens."""

    tokens: list[list[int]]
    texts: list[str]


@dataclass(frozen=True)
class Sampler:
    """The next token of every row: the likeliest at temperature 0, else drawn from the smallest set of tokens
    whose probability reaches `top_p`.

    Row r draws from its own generator, seeded with `seed + r`, so that what a row says does not depend on how many
    rows are beside it.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UsageError(f"temperature {self.temperature} is negative; use 0 for the likeliest token")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} is not in (0, 1]; use 1 for no limit")

    def generators(self, rows: int) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(self.seed + row) for row in range(rows)]

    def next(self, logits: Float[Tensor, "batch vocab"], generators: list[torch.Generator]) -> Int[Tensor, " batch"]:
        if self.temperature == 0:
            return logits.argmax(-1)
        # On the CPU, whose random numbers are the same on every machine.
        probabilities = (logits.float() / self.temperature).softmax(-1).cpu()
        if self.top_p < 1:
            ranked, order = torch.sort(probabilities, dim=-1, descending=True, stable=True)
            outside = ranked.cumsum(-1) - ranked >= self.top_p
            probabilities = torch.zeros_like(ranked).scatter(-1, order, ranked.masked_fill(outside, 0.0))
        drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(probabilities, generators, strict=True)]
        return torch.cat(drawn).to(logits.device)


def left_padded(
    rows: Sequence[Sequence[int]], device: torch.device
) -> tuple[Int[Tensor, "batch seq"], Bool[Tensor, "batch seq"] | None]:
    """Rows of different lengths as one batch that ends in every row's last token, and its mask (None: no padding)."""
    longest = max(len(row) for row in rows)
    # The padding's id is arbitrary: nothing attends to it.
    tokens = torch.tensor([[0] * (longest - len(row)) + list(row) for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    mask = torch.arange(longest, device=device) >= longest - lengths.unsqueeze(1)
    return tokens, None if bool(mask.all()) else mask


def continue_rows(
    hf_model: Any,
    accepts: frozenset[str],
    hooks: RunHooks,
    rows: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampler: Sampler,
    stop_ids: frozenset[int],
    device: torch.device,
) -> list[list[int]]:
    """The new tokens of each row. `accepts` names the keyword arguments the model's forward takes.

    A model that keeps no KV cache is given its whole sequence at every step.
    """
    tokens, mask = left_padded(rows, device)
    generators = sampler.generators(len(rows))
    stops = torch.tensor(sorted(stop_ids), device=device)
    running = torch.ones(len(rows), dtype=torch.bool, device=device)
    new: list[list[int]] = [[] for _ in rows]
    step, cache = tokens, None
    for done in range(max_new_tokens):
        positions = _positions(tokens, mask, step.shape[1], running)
        hooks.positions, hooks.padded = positions, not bool(positions.real.all())
        output = hf_model(input_ids=step, **_arguments(accepts - hooks.incompatible, mask, positions, cache))
        if done == 0:
            hooks.check_all_fired()
        cache = getattr(output, "past_key_values", None)
        chosen = sampler.next(output.logits[:, -1], generators)
        for row in running.nonzero().flatten().tolist():
            new[row].append(int(chosen[row]))
        running = running & ~torch.isin(chosen, stops)
        if not bool(running.any()):
            break
        tokens = torch.cat([tokens, chosen.unsqueeze(1)], dim=1)
        mask = None if mask is None else torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        step = tokens if cache is None else tokens[:, -1:]
    return new


def _positions(
    tokens: Int[Tensor, "batch seq"],
    mask: Bool[Tensor, "batch seq"] | None,
    n_last: int,
    running: Bool[Tensor, " batch"],
) -> Positions:
    """Positions of the last `n_last` columns; rows that have ended count as padding."""
    whole = Positions.of(tokens, mask)
    real = whole.real[:, -n_last:] & running.unsqueeze(1)
    return Positions(whole.index[:, -n_last:].masked_fill(~real, -1), real)


def _arguments(
    accepts: frozenset[str], mask: Bool[Tensor, "batch seq"] | None, positions: Positions, cache: Any
) -> dict[str, Any]:
    offered = {
        "attention_mask": None if mask is None else mask.long(),
        "position_ids": positions.index.clamp(min=0),
        "past_key_values": cache,
        "use_cache": True,
        "logits_to_keep": 1,
    }
    return {name: value for name, value in offered.items() if name in accepts}


def rows_of(tokens: Int[Tensor, "batch seq"], mask: Bool[Tensor, "batch seq"] | None) -> list[list[int]]:
    """Each row's real tokens."""
    if tokens.shape[1] == 0:
        raise ModelError("a prompt of no tokens cannot be continued; give at least one")
    if mask is None:
        return tokens.tolist()
    return [row[own].tolist() for row, own in zip(tokens, mask, strict=True)]
