"""Tokenizing with exact character offsets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int32
from tokenizers import Tokenizer

from saescope.errors import UsageError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class EncodedText:
    """Tokens of one text with the span each covers; the spans, in order, are the whole text without gap or overlap.

    A token that ends inside a character covers nothing of it; the token that completes it covers it.
    """

    tokens: Int32[np.ndarray, "n"]
    start: Int32[np.ndarray, "n"]
    end: Int32[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.tokens)

    def cut(self, first: int, last: int) -> EncodedText:
        """Tokens `first` to `last` (exclusive), their spans counted from where the first begins."""
        origin = self.start[first] if first < len(self) else 0
        return EncodedText(self.tokens[first:last], self.start[first:last] - origin, self.end[first:last] - origin)


def fast_backend(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """The Rust tokenizer underneath. UsageError for a tokenizer that has none: it knows no offsets."""
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UsageError(
            f"{type(tokenizer).__name__} is a slow tokenizer, which gives no character offsets; "
            "load the model with its fast one (tokenizer.json)"
        )
    return backend


class TextEncoder:
    """Encodes texts without special tokens added, in batches."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = _exact(fast_backend(tokenizer))

    def encode(self, texts: Sequence[str]) -> list[EncodedText]:
        encodings = self._backend.encode_batch(list(texts), add_special_tokens=False)
        return [
            _whole_spans(np.array(encoding.ids, dtype=np.int32), encoding.offsets, len(text))
            for encoding, text in zip(encodings, texts, strict=True)
        ]

    def own_prefix(self) -> tuple[int, ...]:
        """The tokens that the tokenizer itself puts before a text: its BOS, or nothing."""
        bare = self._backend.encode("a", add_special_tokens=False).ids
        full = self._backend.encode("a", add_special_tokens=True).ids
        first = next((i for i in range(len(full)) if full[i : i + len(bare)] == bare), 0)
        return tuple(full[:first])


def _exact(backend: Tokenizer) -> Tokenizer:
    """A copy that neither truncates nor pads nor leaves spaces out of its offsets; the original stays as it is."""
    copy = Tokenizer.from_str(backend.to_str())
    copy.no_truncation()
    copy.no_padding()
    if copy.post_processor is not None:
        state = json.loads(copy.post_processor.__getstate__())
        if _untrim(state):
            whole = json.loads(copy.to_str())
            whole["post_processor"] = state
            copy = Tokenizer.from_str(json.dumps(whole))
    return copy


def _untrim(processor: Any) -> bool:
    """Set every `trim_offsets` in a post-processor's settings to false; whether there was one to set."""
    changed = False
    if isinstance(processor, dict):
        if processor.get("trim_offsets"):
            processor["trim_offsets"] = False
            changed = True
        processor = list(processor.values())
    if isinstance(processor, list):
        changed = any([_untrim(part) for part in processor]) or changed
    return changed


def _whole_spans(tokens: Int32[np.ndarray, "n"], offsets: list[tuple[int, int]], n_chars: int) -> EncodedText:
    """Spans that tile the text, from the tokenizer's own.

    Parts of one character all claim the whole of it: each gives way to what follows, so the last one keeps it. What no
    token claims (dropped by a normaliser) goes to the token after it, at the end of the text to the last.
    """
    if not len(tokens):
        empty = np.empty(0, dtype=np.int32)
        return EncodedText(tokens, empty, empty)
    own = np.array(offsets, dtype=np.int32).reshape(-1, 2)
    next_start = np.append(np.minimum.accumulate(own[::-1, 0])[::-1][1:], n_chars)
    end = np.maximum.accumulate(np.minimum(own[:, 1], next_start))
    end[-1] = n_chars
    start = np.concatenate(([0], end[:-1]))
    return EncodedText(tokens, start.astype(np.int32), end.astype(np.int32))
