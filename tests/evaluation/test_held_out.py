"""Only documents that trained no coder are measured on."""

from __future__ import annotations

import pytest
from tests.measured import documents
from transformers import PreTrainedTokenizerFast

from saescope.errors import TextError
from saescope.evaluation.held_out import held_out_text
from saescope.text import SequenceOptions

OPTIONS = SequenceOptions(context=16)


def test_trained_documents_give_no_token(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    everything = documents()
    trained = {document.id for document in everything[::3]}
    text = held_out_text(everything, byte_tokenizer, OPTIONS, trained)
    assert text.skipped_documents == 4
    assert {document.id for document in text.documents} == {document.id for document in everything} - trained


def test_documents_of_the_training_split_that_training_never_reached_count(
    byte_tokenizer: PreTrainedTokenizerFast,
) -> None:
    text = held_out_text(documents(), byte_tokenizer, OPTIONS, ())
    assert {document.split for document in text.documents} == {"train", "held_out"}


def test_nothing_left_is_one_line_that_says_so(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    everything = documents()
    with pytest.raises(TextError, match=r"all 12 documents of .* trained the coder") as refusal:
        held_out_text(everything, byte_tokenizer, OPTIONS, {document.id for document in everything})
    assert "\n" not in str(refusal.value)


def test_a_small_measurement_is_spread_over_the_text(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    whole = held_out_text(documents(), byte_tokenizer, OPTIONS, ())
    part = held_out_text(documents(), byte_tokenizer, OPTIONS, (), max_tokens=whole.n_tokens // 4)
    assert part.n_tokens <= whole.n_tokens // 4
    seen = {int(index) for sequence in part.sequences for index in sequence.document if index >= 0}
    assert min(seen) <= 2
    assert max(seen) >= len(part.documents) - 3


def test_batches_hold_every_sequence_once_in_order(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = held_out_text(documents(), byte_tokenizer, SequenceOptions(context=16, packed=False), ())
    batches = list(text.batches(50))
    numbers = [int(number) for batch in batches for number in batch.sequence]
    assert numbers == list(range(len(text.sequences)))
    assert all(batch.tokens.numel() <= 50 or batch.tokens.shape[0] == 1 for batch in batches)
    assert sum(int(batch.real.sum()) for batch in batches) == text.n_tokens
