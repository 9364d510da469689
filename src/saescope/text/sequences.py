"""From documents to the token sequences a model runs on."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Int32
from pydantic import BaseModel, ConfigDict, Field

from saescope.errors import TextError, UsageError
from saescope.text.documents import Document
from saescope.text.encoding import EncodedText, TextEncoder
from saescope.text.packing import OnePerDocument, Packer
from saescope.text.splits import SPLITS, Split, split_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SECTION_TOKENS = 2000
_Encoded = tuple[Document, str, EncodedText]
_BATCH_CHARACTERS = 1_000_000
_BATCH_DOCUMENTS = 256


class SequenceOptions(BaseModel):
    """How documents become sequences.

    context: tokens a sequence has (packed) or has at most. packed: fill each sequence, several documents to one if
    need be; else every document starts its own. bos: `auto` does what the tokenizer itself does. chat: render
    conversations with the tokenizer's chat template, a plain text as one user turn. held_out: share of documents
    kept from training.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: int = Field(default=256, ge=2)
    packed: bool = True
    bos: Literal["auto", "always", "never"] = "auto"
    chat: bool = False
    held_out: float = Field(default=0.1, ge=0.0, lt=1.0)


@dataclass
class DocumentRecord:
    """A document that gave tokens: a row of the table that `TokenSequence.document` indexes."""

    id: str
    title: str
    source: str
    split: Split
    n_tokens: int
    n_chars: int


@dataclass(frozen=True, eq=False)
class TokenSequence:
    """Tokens to run the model on, all of one split, each with the place it came from.

    `document` indexes the documents table, -1 for tokens put in between (BOS, separator), whose span is -1, -1.
    `start`, `end` count characters of that document's text (`rendered` with the chat template, if that is in use).
    """

    tokens: Int32[np.ndarray, "n"]
    document: Int32[np.ndarray, "n"]
    start: Int32[np.ndarray, "n"]
    end: Int32[np.ndarray, "n"]
    split: Split

    def __len__(self) -> int:
        return len(self.tokens)


class Sequencer:
    """Token sequences of a corpus, in a fixed order; iterating starts over.

    Sequences never mix splits. With a BOS policy that gives one, every sequence and every document starts with it;
    without, documents in one sequence are set apart by the tokenizer's end of text. A corpus of one long document is
    cut into sections that count as documents, with a warning.

    After or during an iteration: `documents` (every document whose tokens went in so far), `dropped_tokens` (per
    split, what did not fill a last sequence), `skipped_documents` (left out by `skip_ids`).
    """

    def __init__(
        self,
        corpus: Iterable[Document],
        tokenizer: PreTrainedTokenizerBase,
        options: SequenceOptions,
        *,
        only_split: Split | None = None,
        skip_ids: Container[str] = (),
    ) -> None:
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.options = options
        self.only_split = only_split
        self.skip_ids = skip_ids
        self._encoder = TextEncoder(tokenizer)
        self.prefix = self._bos_prefix()
        self.separator = None if self.prefix else _end_of_text(tokenizer)
        if len(self.prefix) >= options.context:
            raise UsageError(f"a context of {options.context} leaves no room after the {len(self.prefix)} BOS tokens")
        self.documents: list[DocumentRecord] = []
        self.dropped_tokens: dict[Split, int] = dict.fromkeys(SPLITS, 0)
        self.skipped_documents = 0
        self._seen_documents = 0

    def identity(self) -> dict[str, Any]:
        """Plain JSON data: the options and the tokens they came to."""
        return {**self.options.model_dump(), "prefix": list(self.prefix), "separator": self.separator}

    def __iter__(self) -> Iterator[TokenSequence]:
        """Raises TextError when not one sequence comes out, saying why."""
        self._start_over()
        makers = {split: self._maker() for split in SPLITS}
        n_sequences = 0
        for document, text, encoded in self._encoded():
            split = split_of(document.id, self.options.held_out)
            self.documents.append(
                DocumentRecord(document.id, document.title, document.source, split, len(encoded), len(text))
            )
            for tokens, owner, start, end in makers[split].add(len(self.documents) - 1, encoded):
                n_sequences += 1
                yield TokenSequence(tokens, owner, start, end, split)
        self.dropped_tokens = {split: makers[split].pending for split in SPLITS}
        if not n_sequences:
            raise TextError(self._why_nothing())

    def _start_over(self) -> None:
        self.documents = []
        self.dropped_tokens = dict.fromkeys(SPLITS, 0)
        self.skipped_documents = 0
        self._seen_documents = 0

    def _maker(self) -> Packer | OnePerDocument:
        prefix = np.array(self.prefix, dtype=np.int32)
        if not self.options.packed:
            return OnePerDocument(self.options.context, prefix)
        between = prefix if self.prefix else np.array([self.separator] if self.separator is not None else [], np.int32)
        return Packer(self.options.context, prefix, between)

    def _encoded(self) -> Iterator[_Encoded]:
        """Every wanted document with the text its offsets count in and its tokens, tokenized in batches."""
        documents = iter(self.corpus)
        first = list(itertools.islice(documents, 2))
        if len(first) == 1:
            if first[0].id in self.skip_ids:
                # Trained on as a document among others: its sections have ids of their own, and none is new.
                self._seen_documents += 1
                self.skipped_documents += 1
                return
            sections = self._sections(*self._tokenized(first)[0])
            yield from (section for section in sections if self._wanted(section[0]))
            return
        wanted = filter(self._wanted, itertools.chain(first, documents))
        for batch in _batches(wanted):
            yield from self._tokenized(batch)

    def _wanted(self, document: Document) -> bool:
        self._seen_documents += 1
        if self.only_split is not None and split_of(document.id, self.options.held_out) != self.only_split:
            return False
        if document.id in self.skip_ids:
            self.skipped_documents += 1
            return False
        return True

    def _tokenized(self, documents: list[Document]) -> list[_Encoded]:
        texts = [rendered(document, self.tokenizer) if self.options.chat else document.text for document in documents]
        encoded = [self._without_own_bos(text) for text in self._encoder.encode(texts)]
        return list(zip(documents, texts, encoded, strict=True))

    def _without_own_bos(self, encoded: EncodedText) -> EncodedText:
        """Chat templates often write the BOS that is put before every document anyway."""
        length = len(self.prefix)
        if self.options.chat and length and encoded.tokens[:length].tolist() == list(self.prefix):
            return EncodedText(encoded.tokens[length:], encoded.start[length:], encoded.end[length:])
        return encoded

    def _sections(self, document: Document, text: str, encoded: EncodedText) -> list[_Encoded]:
        """The only document of a corpus, cut into contiguous sections if it is long enough for two."""
        count = len(encoded) // SECTION_TOKENS
        if count < 2:
            return [(document, text, encoded)]
        cuts = [0, *(_clean_cut(encoded, round(i * len(encoded) / count)) for i in range(1, count)), len(encoded)]
        sections: dict[str, _Encoded] = {}
        for number, (first, last) in enumerate(itertools.pairwise(cuts), start=1):
            part = text[encoded.start[first] : encoded.end[last - 1]]
            section = Document(part, f"{document.title} ({number} of {count})", document.source)
            sections.setdefault(section.id, (section, part, encoded.cut(first, last)))
        warnings.warn(
            f"{document.source} is the only document of its corpus: its {count} sections of about "
            f"{len(encoded) // count:,} tokens are split as if they were documents, though they are not independent",
            stacklevel=2,
        )
        return list(sections.values())

    def _bos_prefix(self) -> tuple[int, ...]:
        if self.options.bos == "never":
            return ()
        if self.options.bos == "auto":
            return self._encoder.own_prefix()
        bos = self.tokenizer.bos_token_id
        if bos is None:
            raise UsageError("this tokenizer has no BOS token, so bos cannot be 'always'; use 'auto' or 'never'")
        return (int(bos),)

    def _why_nothing(self) -> str:
        spec = getattr(self.corpus, "spec", "the corpus")
        wanted = f"{self.only_split} " if self.only_split else ""
        if not self._seen_documents:
            return f"the corpus {spec} is empty: no document in it has any text"
        if not self.documents and self.skipped_documents:
            return (
                f"every {wanted}document of {spec} was trained on, so there is nothing to measure on; give other text"
            )
        if not self.documents:
            return f"none of the {self._seen_documents} documents of {spec} is in the {wanted}split; give more text"
        n_tokens = sum(record.n_tokens for record in self.documents)
        return (
            f"{spec} is shorter than the context: its {n_tokens:,} {wanted}tokens do not fill one sequence of "
            f"{self.options.context}; give more text or a smaller context"
        )


def rendered(document: Document, tokenizer: PreTrainedTokenizerBase) -> str:
    """The document as its model's chat template writes it; a text without messages is one user turn."""
    if not tokenizer.chat_template:
        raise UsageError("this model's tokenizer has no chat template; leave chat off, or take an instruction model")
    messages = document.messages or ({"role": "user", "content": document.text},)
    try:
        text = tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False)
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise TextError(f"{document.source}: the chat template refuses these messages ({reason})") from error
    return str(text)


def _end_of_text(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """What stood between documents in pretraining: `<|endoftext|>` where there is one, since an instruction model's
    EOS ends a turn instead; else EOS; else nothing."""
    token = tokenizer.get_vocab().get("<|endoftext|>", tokenizer.eos_token_id)
    return None if token is None else int(token)


def _clean_cut(encoded: EncodedText, token: int) -> int:
    """The first token at or after `token` that does not begin inside a character."""
    while token < len(encoded) and encoded.start[token - 1] == encoded.end[token - 1]:
        token += 1
    return token


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if characters >= _BATCH_CHARACTERS or len(batch) == _BATCH_DOCUMENTS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
