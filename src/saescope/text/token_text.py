"""The exact text of each token of a sequence, also where a character is spread over several tokens."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from saescope.text.encoding import fast_backend

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SENTENCEPIECE_SPACE = "▁"


class TokenText:
    """Cuts a decoded sequence at its tokens.

    For any `ids`, `"".join(pieces(ids))` is the tokenizer's own decoding, special tokens included. A token that ends
    inside a character shows `""`, and the token that completes the character shows it whole. Bytes that are no
    character show as U+FFFD, at the token where that becomes certain.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._backend = fast_backend(tokenizer)
        self._tokens: dict[int, str | bytes] = {}
        self._whole: dict[int, str | None] = {}
        decoder = self._backend.decoder
        steps = _steps(json.loads(decoder.__getstate__()) if decoder is not None else None)
        self._leading_spaces_cut = 0
        self._read: Callable[[str], str | bytes]
        self._pieces: Callable[[list[int]], list[str]]
        if steps == [{"type": "ByteLevel"}]:
            self._pieces, self._read = self._byte_level, _byte_level_token
        elif steps is not None and _is_byte_fallback(steps):
            self._leading_spaces_cut = sum(step["start"] for step in steps if step["type"] == "Strip")
            self._pieces, self._read = self._byte_fallback, _byte_fallback_token
        else:
            self._pieces, self._read = self._by_prefixes, _unread

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """One string per id, in order. Ids that are no token (padding of -1, rows beyond the vocabulary) show `""`."""
        return self._pieces([int(token) for token in ids])

    def _token(self, token_id: int) -> str | bytes:
        if token_id not in self._tokens:
            text = self._backend.id_to_token(token_id) if token_id >= 0 else None
            self._tokens[token_id] = self._read(text or "")
        return self._tokens[token_id]

    def _byte_level(self, ids: list[int]) -> list[str]:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        pieces: list[str] = []
        known, inside = self._whole, False
        for token_id in ids:
            if not inside:
                # Nearly every token is whole characters, which are the same wherever it stands between characters.
                whole = known[token_id] if token_id in known else self._whole_characters(token_id)
                if whole is not None:
                    pieces.append(whole)
                    continue
            token = self._token(token_id)
            pieces.append(decoder.decode(token if isinstance(token, bytes) else token.encode()))
            inside = bool(decoder.getstate()[0])
        if pieces:
            pieces[-1] += decoder.decode(b"", final=True)
        return pieces

    def _whole_characters(self, token_id: int) -> str | None:
        """The token's text where its bytes are whole characters, else None."""
        token = self._token(token_id)
        try:
            whole = token.decode() if isinstance(token, bytes) else token
        except UnicodeDecodeError:
            whole = None
        self._whole[token_id] = whole
        return whole

    def _byte_fallback(self, ids: list[int]) -> list[str]:
        pieces: list[str] = []
        run: list[bytes] = []
        for token_id in ids:
            token = self._token(token_id)
            if isinstance(token, bytes):
                run.append(token)
                continue
            pieces += _characters_of(run)
            run = []
            pieces.append(token)
        pieces += _characters_of(run)
        self._cut_leading_spaces(pieces)
        return pieces

    def _cut_leading_spaces(self, pieces: list[str]) -> None:
        for _ in range(self._leading_spaces_cut):
            first = next((index for index, piece in enumerate(pieces) if piece), None)
            if first is None or not pieces[first].startswith(" "):
                return
            pieces[first] = pieces[first][1:]

    def _by_prefixes(self, ids: list[int]) -> list[str]:
        """For decoders not known here: what each token adds to the decoding of those before it."""
        whole = self._decoded(ids)
        ends: list[int] = []
        for count in range(1, len(ids) + 1):
            prefix = self._decoded(ids[:count])
            agreed = next((i for i, (a, b) in enumerate(zip(prefix, whole, strict=False)) if a != b), len(prefix))
            ends.append(max(min(agreed, len(whole)), ends[-1] if ends else 0))
        if ends:
            ends[-1] = len(whole)
        return [whole[start:end] for start, end in zip([0, *ends], ends, strict=False)]

    def _decoded(self, ids: list[int]) -> str:
        return str(self._backend.decode([token for token in ids if token >= 0], skip_special_tokens=False))


def _steps(decoder: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """A decoder as its list of steps; ByteLevel without its settings, which decoding ignores."""
    if decoder is None:
        return None
    steps = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return [{"type": "ByteLevel"} if step["type"] == "ByteLevel" else step for step in steps]


def _is_byte_fallback(steps: list[dict[str, Any]]) -> bool:
    """Whether these are the steps of a sentencepiece model: `▁` to space, byte tokens, join, perhaps strip a space."""
    space, fallback, fuse, *strip = steps if len(steps) >= 3 else [{"type": ""}] * 3
    return (
        (space["type"], space.get("pattern"), space.get("content"))
        == ("Replace", {"String": _SENTENCEPIECE_SPACE}, " ")
        and (fallback["type"], fuse["type"]) == ("ByteFallback", "Fuse")
        and all(step["type"] == "Strip" and step["content"] == " " and step["stop"] == 0 for step in strip)
    )


def _byte_of_character() -> dict[str, int]:
    """GPT-2's alphabet: each byte as a printable character, itself where it is one, else the next free above 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {chr(byte): byte for byte in printable}
    others = (byte for byte in range(256) if byte not in printable)
    table.update({chr(256 + index): byte for index, byte in enumerate(others)})
    return table


_BYTE_OF_CHARACTER = _byte_of_character()


def _byte_level_token(token: str) -> bytes:
    try:
        return bytes(_BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:
        # An added token is stored as plain text.
        return token.encode("utf-8")


def _byte_fallback_token(token: str) -> str | bytes:
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return bytes([int(token[3:5], 16)])
        except ValueError:
            return token
    return token.replace(_SENTENCEPIECE_SPACE, " ")


def _unread(token: str) -> str:
    return token


def _characters_of(run: list[bytes]) -> list[str]:
    """A run of byte tokens: its characters at their last bytes, or one U+FFFD a byte when the run is not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        pieces = [decoder.decode(byte) for byte in run]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return ["\ufffd"] * len(run)
    return pieces
