"""Documents, splits and token sequences."""

from saescope.text.corpus import Corpus
from saescope.text.documents import Document, document_id
from saescope.text.sequences import DocumentRecord, SequenceOptions, Sequencer, TokenSequence, rendered
from saescope.text.splits import SPLITS, Split, split_of
from saescope.text.token_text import TokenText

__all__ = [
    "SPLITS",
    "Corpus",
    "Document",
    "DocumentRecord",
    "SequenceOptions",
    "Sequencer",
    "Split",
    "TokenSequence",
    "TokenText",
    "document_id",
    "rendered",
    "split_of",
]
