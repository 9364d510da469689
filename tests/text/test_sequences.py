"""Token sequences: nothing lost, nothing mixed, every token's place exact."""

from __future__ import annotations

import copy
import random
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from saescope.errors import TextError, UsageError
from saescope.text import Document, SequenceOptions, Sequencer, TokenSequence, TokenText, rendered, split_of
from saescope.text.encoding import TextEncoder

ALPHABET = "ab the dog 12,.\n\t  éßΩЖ日本語שלוםمرحبا😀👩‍👧🇫🇷e\u0301\u200f"
some_text = st.one_of(st.text(ALPHABET, max_size=60), st.text(st.characters(exclude_categories=("Cs",)), max_size=40))
corpora = st.lists(some_text.filter(str.strip), min_size=1, max_size=12, unique=True)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def documents_of(texts: list[str]) -> list[Document]:
    return [Document(text, f"title {number}", f"here:{number}") for number, text in enumerate(texts)]


def run(
    texts: list[str], tokenizer: PreTrainedTokenizerFast, **options: object
) -> tuple[Sequencer, list[TokenSequence]]:
    sequencer = Sequencer(documents_of(texts), tokenizer, SequenceOptions(**options))
    try:
        return sequencer, list(sequencer)
    except TextError:
        return sequencer, []


@given(texts=corpora)
@quick
def test_spans_tile_the_text_and_are_what_the_tokens_say(
    texts: list[str], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    pieces = TokenText(byte_tokenizer)
    for text, encoded in zip(texts, TextEncoder(byte_tokenizer).encode(texts), strict=True):
        spans = [text[a:b] for a, b in zip(encoded.start, encoded.end, strict=True)]
        assert "".join(spans) == text
        assert spans == pieces.pieces(encoded.tokens)
        assert encoded.start[0] == 0
        assert encoded.end[-1] == len(text)
        assert all(end == start for end, start in zip(encoded.end[:-1], encoded.start[1:], strict=True))


def test_encoding_leaves_the_tokenizer_as_it_was(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    before = byte_tokenizer.backend_tokenizer.to_str()
    TextEncoder(byte_tokenizer).encode([" Trimmed  offsets "])
    assert byte_tokenizer.backend_tokenizer.to_str() == before


def test_a_tokenizer_that_truncates_does_not_lose_text(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer = copy.deepcopy(byte_tokenizer)
    tokenizer.backend_tokenizer.enable_truncation(4)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    (encoded,) = TextEncoder(tokenizer).encode(["The quick brown fox jumps over the lazy dog."])
    assert 4 < len(encoded) < 50


@given(texts=corpora, context=st.integers(2, 40), held_out=st.sampled_from([0.0, 0.3, 0.8]), bos=st.booleans())
@quick
def test_packing_loses_only_the_counted_remainder(
    texts: list[str],
    context: int,
    held_out: float,
    bos: bool,
    byte_tokenizer: PreTrainedTokenizerFast,
    bos_tokenizer: PreTrainedTokenizerFast,
) -> None:
    tokenizer = bos_tokenizer if bos else byte_tokenizer
    sequencer, sequences = run(texts, tokenizer, context=context, held_out=held_out)
    assert all(len(sequence) == context for sequence in sequences)
    given_out = sum(int((sequence.document >= 0).sum()) for sequence in sequences)
    taken_in = sum(record.n_tokens for record in sequencer.documents)
    dropped = sum(sequencer.dropped_tokens.values())
    assert given_out + dropped == taken_in
    assert all(count < context for count in sequencer.dropped_tokens.values())


@given(
    texts=corpora, context=st.integers(2, 30), packed=st.booleans(), bos=st.sampled_from(["auto", "always", "never"])
)
@quick
def test_each_documents_tokens_come_out_in_order_and_in_place(
    texts: list[str], context: int, packed: bool, bos: str, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    sequencer, sequences = run(texts, byte_tokenizer, context=context, packed=packed, bos=bos, held_out=0.5)
    by_id = {document.id: document.text for document in documents_of(texts)}
    for number, record in enumerate(sequencer.documents):
        text = by_id[record.id]
        (whole,) = TextEncoder(byte_tokenizer).encode([text])
        parts = [(s.tokens[s.document == number], s.end[s.document == number]) for s in sequences]
        tokens, ends = (np.concatenate([part[column] for part in parts] or [[]]) for column in (0, 1))
        assert tokens.tolist() == whole.tokens[: len(tokens)].tolist()
        assert ends.tolist() == whole.end[: len(ends)].tolist()
        assert packed or len(tokens) == record.n_tokens


@given(texts=corpora, context=st.integers(2, 30), packed=st.booleans())
@quick
def test_no_sequence_mixes_splits(
    texts: list[str], context: int, packed: bool, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    sequencer, sequences = run(texts, byte_tokenizer, context=context, packed=packed, held_out=0.5)
    for sequence in sequences:
        owners = set(sequence.document[sequence.document >= 0].tolist())
        assert {split_of(sequencer.documents[owner].id, 0.5) for owner in owners} == {sequence.split}


@given(texts=corpora, context=st.integers(3, 20))
@quick
def test_with_a_bos_every_sequence_and_every_document_starts_with_it(
    texts: list[str], context: int, bos_tokenizer: PreTrainedTokenizerFast
) -> None:
    _, sequences = run(texts, bos_tokenizer, context=context)
    for sequence in sequences:
        assert sequence.tokens[0] == bos_tokenizer.bos_token_id
        inserted = sequence.document == -1
        assert set(sequence.tokens[inserted].tolist()) == {bos_tokenizer.bos_token_id}
        for place in range(1, context):
            before, here = sequence.document[place - 1 : place + 1]
            assert here == before or -1 in (here, before)


def test_without_a_bos_documents_are_set_apart_by_end_of_text(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    _, (sequence,) = run(["The dog.", "A fox."], byte_tokenizer, context=6, held_out=0.0)
    assert byte_tokenizer.decode(sequence.tokens).startswith("The dog.<|endoftext|>A")
    assert (sequence.document == -1).sum() == 1
    _, sequences = run(["The dog.", "A fox."], byte_tokenizer, context=3, held_out=0.0)
    assert all(-1 not in s.document for s in sequences), "a document that opens a sequence needs nothing before it"


def test_bos_policies(byte_tokenizer: PreTrainedTokenizerFast, bos_tokenizer: PreTrainedTokenizerFast) -> None:
    def prefix(tokenizer: PreTrainedTokenizerFast, bos: str) -> tuple[int, ...]:
        return Sequencer([], tokenizer, SequenceOptions(bos=bos)).prefix

    assert prefix(byte_tokenizer, "auto") == prefix(byte_tokenizer, "never") == prefix(bos_tokenizer, "never") == ()
    assert prefix(byte_tokenizer, "always") == prefix(bos_tokenizer, "auto") == (byte_tokenizer.bos_token_id,)
    bare = copy.deepcopy(byte_tokenizer)
    bare.bos_token = None
    with pytest.raises(UsageError, match="no BOS"):
        prefix(bare, "always")


def test_inserted_tokens_have_no_place(bos_tokenizer: PreTrainedTokenizerFast) -> None:
    _, sequences = run(["The dog. " * 5], bos_tokenizer, packed=False, context=8)
    for sequence in sequences:
        assert (sequence.document[0], sequence.start[0], sequence.end[0]) == (-1, -1, -1)
        assert len(sequence) <= 8


def test_splits_depend_on_the_text_alone() -> None:
    texts = [f"document {number}" for number in range(400)]
    first = {document.id: split_of(document.id, 0.1) for document in documents_of(texts)}
    random.Random(0).shuffle(texts)
    again = {document.id: split_of(document.id, 0.1) for document in documents_of(texts + texts[:50])}
    assert first == again
    share = sum(split == "held_out" for split in first.values()) / len(first)
    assert 0.05 < share < 0.16


def test_what_is_held_out_stays_so_at_a_larger_share() -> None:
    ids = [document.id for document in documents_of([str(number) for number in range(500)])]
    for small, large in pairwise([0.0, 0.1, 0.3, 0.9]):
        held_small = {i for i in ids if split_of(i, small) == "held_out"}
        assert held_small <= {i for i in ids if split_of(i, large) == "held_out"}
    assert not {i for i in ids if split_of(i, 0.0) == "held_out"}


def test_order_and_repetition_of_a_run(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    texts = [f"The quick brown fox number {number} jumps." for number in range(30)]
    sequencer, first = run(texts, byte_tokenizer, context=16)
    second = list(sequencer)
    assert len(first) == len(second) > 10
    for a, b in zip(first, second, strict=True):
        assert a.split == b.split
        for name in ("tokens", "document", "start", "end"):
            assert np.array_equal(getattr(a, name), getattr(b, name))
            assert getattr(a, name).dtype == np.int32


def test_only_split_gives_that_split_alone_unchanged(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    documents = documents_of([f"The quick brown fox number {number} jumps." for number in range(30)])
    options = SequenceOptions(context=16, held_out=0.4)
    both = [s for s in Sequencer(documents, byte_tokenizer, options) if s.split == "held_out"]
    alone = list(Sequencer(documents, byte_tokenizer, options, only_split="held_out"))
    assert [s.tokens.tolist() for s in both] == [s.tokens.tolist() for s in alone]


def test_skipped_documents_give_no_token(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    documents = documents_of([f"The quick brown fox number {number} jumps." for number in range(20)])
    skip = {document.id for document in documents[:7]}
    sequencer = Sequencer(documents, byte_tokenizer, SequenceOptions(context=8), skip_ids=skip)
    list(sequencer)
    assert {record.id for record in sequencer.documents} == {document.id for document in documents[7:]}
    assert sequencer.skipped_documents == 7


def test_the_documents_table_grows_with_what_was_taken(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    documents = documents_of([f"The quick brown fox number {number} jumps." for number in range(50)])
    sequencer = Sequencer(documents, byte_tokenizer, SequenceOptions(context=8, held_out=0.0))
    sequence = next(iter(sequencer))
    assert len(sequencer.documents) == sequence.document.max() + 1 == 1


def test_one_long_document_is_cut_into_sections(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "".join(f"Sentence {number} of the text, 日本 😀. " for number in range(900))
    sequencer = Sequencer(documents_of([text]), byte_tokenizer, SequenceOptions(context=64, held_out=0.3))
    with pytest.warns(UserWarning, match="only document"):
        sequences = list(sequencer)
    sections = sequencer.documents
    assert len(sections) > 5
    assert all(record.n_tokens >= 2000 for record in sections)
    assert sum(record.n_chars for record in sections) == len(text)
    assert {s.split for s in sequences} == {"train", "held_out"}
    for sequence in sequences:
        assert (sequence.start[sequence.document >= 0] >= 0).all()
        for owner in set(sequence.document.tolist()) - {-1}:
            assert sequence.end[sequence.document == owner].max() <= sections[owner].n_chars


def test_a_document_trained_on_whole_has_no_untrained_sections(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    (document,) = documents_of(["".join(f"Sentence {number} of the text. " for number in range(900))])
    sequencer = Sequencer([document], byte_tokenizer, SequenceOptions(context=64), skip_ids={document.id})
    with pytest.raises(TextError):
        list(sequencer)
    assert sequencer.skipped_documents == 1


@pytest.mark.filterwarnings("ignore:.*only document")
def test_sections_already_trained_on_are_skipped(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    text = "".join(f"Sentence {number} of the text. " for number in range(900))
    sequencer, _ = run([text], byte_tokenizer, context=64, held_out=0.0)
    trained = {record.id for record in sequencer.documents[:-1]}
    rest = Sequencer(documents_of([text]), byte_tokenizer, SequenceOptions(context=64), skip_ids=trained)
    list(rest)
    assert [record.id for record in rest.documents] == [sequencer.documents[-1].id]


def test_a_short_only_document_stays_whole(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    sequencer, _ = run(["The dog. " * 20], byte_tokenizer, context=8)
    assert len(sequencer.documents) == 1


CHAT = "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"


@pytest.fixture
def chat_tokenizer(bos_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    tokenizer = copy.deepcopy(bos_tokenizer)
    tokenizer.chat_template = CHAT
    return tokenizer


def test_conversations_are_rendered_with_the_template(chat_tokenizer: PreTrainedTokenizerFast) -> None:
    turns = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello 😀"})
    conversation = Document("user: Hi\n\nassistant: Hello 😀", "t", "s", turns)
    plain = Document("Just text.", "t", "s")
    assert rendered(conversation, chat_tokenizer) == "<bos><user>Hi\n<assistant>Hello 😀\n"
    assert rendered(plain, chat_tokenizer) == "<bos><user>Just text.\n"
    sequencer = Sequencer([conversation, plain], chat_tokenizer, SequenceOptions(packed=False, chat=True))
    sequences = list(sequencer)
    for sequence, document in zip(sequences, [conversation, plain], strict=True):
        text = rendered(document, chat_tokenizer)
        assert chat_tokenizer.decode(sequence.tokens) == text, "the template's own BOS must not be doubled"
        owned = sequence.document >= 0
        spans = [text[a:b] for a, b in zip(sequence.start[owned], sequence.end[owned], strict=True)]
        assert "".join(spans) == text.removeprefix("<bos>")
    assert [record.id for record in sequencer.documents] == [conversation.id, plain.id]
    assert [record.split for record in sequencer.documents] == [split_of(d.id, 0.1) for d in (conversation, plain)]


def test_chat_without_a_template_or_with_bad_turns_is_refused(
    byte_tokenizer: PreTrainedTokenizerFast, chat_tokenizer: PreTrainedTokenizerFast
) -> None:
    documents = documents_of(["one", "two"])
    with pytest.raises(UsageError, match="chat template"):
        list(Sequencer(documents, byte_tokenizer, SequenceOptions(chat=True)))
    chat_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(TextError, match=r"here:0.*alternate"):
        list(Sequencer(documents, chat_tokenizer, SequenceOptions(chat=True)))


def test_text_shorter_than_the_context_is_refused(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    sequencer = Sequencer(documents_of(["The dog.", "A fox."]), byte_tokenizer, SequenceOptions(context=256))
    with pytest.raises(TextError, match="shorter than the context"):
        list(sequencer)


def test_when_nothing_is_left_the_reason_is_given(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    documents = documents_of(["The dog.", "A fox."])
    options = SequenceOptions(context=4, held_out=0.0)
    with pytest.raises(TextError, match="trained on"):
        list(Sequencer(documents, byte_tokenizer, options, skip_ids={document.id for document in documents}))
    with pytest.raises(TextError, match="held_out split"):
        list(Sequencer(documents, byte_tokenizer, options, only_split="held_out"))
    with pytest.raises(TextError, match="empty"):
        list(Sequencer([], byte_tokenizer, options))


@pytest.mark.real
def test_the_demo_text_in_smollm2_tokens() -> None:
    from transformers import AutoTokenizer

    from saescope import assets
    from saescope.text import Corpus

    tokenizer = AutoTokenizer.from_pretrained(assets.fetch("smollm2", progress=False))
    sequencer = Sequencer(Corpus.open("demo"), tokenizer, SequenceOptions())
    n_tokens = sum(len(sequence) for sequence in sequencer)
    assert 800_000 < n_tokens < 950_000
    assert sequencer.prefix == ()
    assert tokenizer.decode(sequencer.separator) == "<|endoftext|>"
