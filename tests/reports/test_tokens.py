"""Tokens for display."""

from __future__ import annotations

from transformers import PreTrainedTokenizerFast

from saescope.features import Context
from saescope.reports.escaping import visible
from saescope.reports.tokens import context_html, merged
from saescope.text import TokenText


def context(activations: list[float], peak: int) -> Context:
    return Context(list(range(len(activations))), activations, peak, 0, 0, 0)


def test_parts_of_a_character_become_one_piece_with_the_largest_value() -> None:
    texts = ["a", "", "", "日", "b"]
    found = merged(context([0, 1, 4, 2, 0], 2), lambda ids: texts)
    assert [(piece.text, piece.value, piece.peak) for piece in found] == [
        ("a", 0, False),
        ("日", 4, True),
        ("b", 0, False),
    ]


def test_a_peak_in_a_last_unfinished_character_is_not_lost() -> None:
    found = merged(context([0, 3], 1), lambda ids: ["a", ""])
    assert [(piece.text, piece.peak) for piece in found] == [("a", True)]


def test_a_real_tokenizers_split_character_is_shown_whole(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    ids = byte_tokenizer("x 鬱 y", add_special_tokens=False)["input_ids"]
    pieces = TokenText(byte_tokenizer).pieces
    parts = [index for index, piece in enumerate(pieces(ids)) if piece == ""]
    assert parts, "the tokenizer should split this character"
    one = Context(ids, [1.0 if index == parts[0] else 0.0 for index in range(len(ids))], parts[0], 0, 0, 0)
    shown = context_html(one, pieces, 1.0, "")
    assert "鬱</mark>" in shown
    assert "\ufffd" not in shown


def test_line_ends_and_tabs_are_seen_and_directions_cannot_leak() -> None:
    assert visible("a\n\tb") == "a↵⇥b"
    assert visible("\u202ex\u2067\x1b") == "\ufffdx\ufffd\ufffd"
    assert visible("👩‍👩‍👧 <i>") == "👩‍👩‍👧 &lt;i&gt;"


def test_a_leading_space_is_not_shaded() -> None:
    shown = context_html(context([0.0, 2.0], 1), lambda ids: ["the", " dog"], 2.0, "title")
    assert "the <mark" in shown
    assert ">dog</mark>" in shown
    assert 'title="2"' in shown


def test_shades_follow_value() -> None:
    shown = context_html(context([1.0, 4.0, 8.0], 2), lambda ids: ["a", "b", "c"], 8.0, "")
    assert [f"a{shade}" in shown for shade in (1, 4, 8)] == [True, True, True]
