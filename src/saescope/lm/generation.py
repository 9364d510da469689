"""Generation with edits, under a KV cache, for prompts of different lengths in one batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.errors import ModelError, UsageError
from saescope.lm.edits import Positions

if TYPE_CHECKING:
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
    rows are beside it. Several seeds are one a row: rows of the same seed draw the same random numbers.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | Sequence[int] = 0

    def __post_init__(self) -> None:
        if not (self.temperature == 0 or 1e-6 <= self.temperature < math.inf):
            raise UsageError(f"temperature {self.temperature} is none; use 0 for the likeliest token, or 1e-6 and more")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p {self.top_p} is not in (0, 1]; use 1 for no limit")

    def generators(self, rows: int) -> list[torch.Generator]:
        seeds = [self.seed + row for row in range(rows)] if isinstance(self.seed, int) else list(self.seed)
        if len(seeds) != rows:
            raise UsageError(f"{len(seeds)} seeds were given for {rows} prompts; give one seed, or one for each")
        return [torch.Generator().manual_seed(seed) for seed in seeds]

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


class Continuation:
    """Rows of tokens that grow by one token a step, under a KV cache.

    `accepts` names the keyword arguments the model's forward takes. A model that keeps no KV cache is given its whole
    sequence at every step. The caller installs `hooks` for each step, and keeps others off the model as long.
    """

    def __init__(
        self,
        hf_model: Any,
        accepts: frozenset[str],
        hooks: RunHooks,
        rows: Sequence[Sequence[int]],
        *,
        sampler: Sampler,
        stop_ids: frozenset[int],
        device: torch.device,
    ) -> None:
        self._hf_model, self._accepts, self._hooks, self._sampler = hf_model, accepts, hooks, sampler
        self._tokens, self._mask = left_padded(rows, device)
        self._generators = sampler.generators(len(rows))
        self._stops = torch.tensor(sorted(stop_ids), device=device)
        self._running = torch.ones(len(rows), dtype=torch.bool, device=device)
        self._step, self._cache = self._tokens, None
        self._first = True

    @property
    def ended(self) -> bool:
        """Whether every row has said its end-of-sequence token."""
        return not bool(self._running.any())

    def step(self) -> list[int | None]:
        """One forward pass: each row's next token, None for rows that have ended."""
        positions = _positions(self._tokens, self._mask, self._step.shape[1], self._running)
        hooks = self._hooks
        hooks.positions, hooks.padded = positions, not bool(positions.real.all())
        arguments = _arguments(self._accepts - hooks.incompatible, self._mask, positions, self._cache)
        output = self._hf_model(input_ids=self._step, **arguments)
        if self._first:
            hooks.check_all_fired()
            self._first = False
        self._cache = getattr(output, "past_key_values", None)
        chosen = self._sampler.next(output.logits[:, -1], self._generators)
        said = [int(token) if runs else None for token, runs in zip(chosen, self._running.tolist(), strict=True)]
        self._running = self._running & ~torch.isin(chosen, self._stops)
        self._tokens = torch.cat([self._tokens, chosen.unsqueeze(1)], dim=1)
        if self._mask is not None:
            self._mask = torch.cat([self._mask, self._mask.new_ones(len(said), 1)], dim=1)
        self._step = self._tokens if self._cache is None else self._tokens[:, -1:]
        return said


def continue_rows(continuation: Continuation, n_rows: int, max_new_tokens: int) -> list[list[int]]:
    """The new tokens of each row, to its end or `max_new_tokens`."""
    new: list[list[int]] = [[] for _ in range(n_rows)]
    for _ in range(max_new_tokens):
        for row, token in zip(new, continuation.step(), strict=True):
            if token is not None:
                row.append(token)
        if continuation.ended:
            break
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
    return Positions(whole.index[:, -n_last:].masked_fill(~real, -1), real, tokens[:, -n_last:])


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
