"""The text of single tokens: joined it is the tokenizer's decoding, and no character is ever shown broken."""

from __future__ import annotations

import copy

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from saescope.text import TokenText

quick = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
any_text = st.one_of(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=40),
    st.text("a é日😀👩‍👧שم\u200f\ufffd\n ", max_size=20),
)
HARD = ["😀😃", "日本語 and 中文", "שלום עולם", "مرحبا", "👩‍👩‍👧 🇫🇷", "e\u0301", " ﷽", "\ufffd", "ab\x00c", ""]


def sentencepiece_tokenizer(*, strip: int = 0) -> PreTrainedTokenizerFast:
    """A vocabulary as Gemma's or Llama's: `▁` for the space, unknown characters as byte tokens."""
    pieces = ["<unk>", "<bos>", *(f"<0x{byte:02X}>" for byte in range(256)), *"▁abcdehlo,.é", "▁a", "he", "hel", "▁he"]
    merges = [("▁", "a"), ("h", "e"), ("he", "l"), ("▁", "he")]
    vocab = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", strip, 0)] if strip else [])])
    backend.add_special_tokens([AddedToken("<bos>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<bos>")


def decoded(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    return tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False) if ids else ""


@pytest.mark.parametrize("text", HARD)
def test_hard_texts_come_back_whole(text: str, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer(text).input_ids
    pieces = TokenText(byte_tokenizer).pieces(ids)
    assert "".join(pieces) == text
    assert len(pieces) == len(ids)
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@given(text=any_text)
@quick
def test_any_text_comes_back_whole(text: str, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert "".join(TokenText(byte_tokenizer).pieces(byte_tokenizer(text).input_ids)) == text


@given(ids=st.lists(st.integers(0, 399), max_size=20))
@quick
def test_any_token_ids_join_to_their_decoding(ids: list[int], byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert "".join(TokenText(byte_tokenizer).pieces(ids)) == decoded(byte_tokenizer, ids)


def test_a_character_shows_at_its_last_token(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer("\U0001f9ff").input_ids
    assert len(ids) > 1
    assert TokenText(byte_tokenizer).pieces(ids) == [""] * (len(ids) - 1) + ["\U0001f9ff"]


def test_a_window_may_begin_or_end_inside_a_character(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer("a\U0001f9ffb").input_ids
    for first in range(len(ids)):
        for last in range(first, len(ids) + 1):
            pieces = TokenText(byte_tokenizer).pieces(ids[first:last])
            assert "".join(pieces) == decoded(byte_tokenizer, ids[first:last])


def test_special_and_added_tokens_show_their_text(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.add_tokens(["    ", "<｜start｜>"])
    ids = tokenizer("a<|endoftext|>    b<｜start｜>").input_ids
    assert TokenText(tokenizer).pieces(ids) == ["a", "<|endoftext|>", "    ", "b", "<｜start｜>"]


def test_ids_that_are_no_token_show_nothing(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert TokenText(byte_tokenizer).pieces([-1, 10**6]) == ["", ""]


@given(text=any_text, strip=st.sampled_from([0, 1]))
@quick
def test_byte_fallback_joins_to_its_decoding(text: str, strip: int) -> None:
    tokenizer = sentencepiece_tokenizer(strip=strip)
    ids = tokenizer(text).input_ids
    assert "".join(TokenText(tokenizer).pieces(ids)) == decoded(tokenizer, ids)


@given(ids=st.lists(st.integers(0, 273), max_size=20), strip=st.sampled_from([0, 1]))
@quick
def test_any_byte_fallback_ids_join_to_their_decoding(ids: list[int], strip: int) -> None:
    tokenizer = sentencepiece_tokenizer(strip=strip)
    assert "".join(TokenText(tokenizer).pieces(ids)) == decoded(tokenizer, ids)


def test_byte_fallback_shows_whole_characters() -> None:
    tokenizer = sentencepiece_tokenizer()
    pieces = TokenText(tokenizer).pieces(tokenizer("hello 日 😀").input_ids)
    assert "".join(pieces) == "hello 日 😀"
    assert {"日", "😀"} <= set(pieces)
    assert not any("\ufffd" in piece for piece in pieces)


@given(text=st.text("ab cd", max_size=20))
@quick
def test_a_decoder_not_known_here_still_joins_to_its_decoding(text: str) -> None:
    vocab = {piece: number for number, piece in enumerate(["[UNK]", "a", "b", "##a", "##b", "c", "##c", "##d"])}
    backend = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.decoder = decoders.WordPiece()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")
    ids = tokenizer(text).input_ids
    pieces = TokenText(tokenizer).pieces(ids)
    assert "".join(pieces) == backend.decode(ids, skip_special_tokens=False)
    assert len(pieces) == len(ids)
