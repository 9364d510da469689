"""Which documents are held out: decided by the text alone."""

from __future__ import annotations

from typing import Literal

Split = Literal["train", "held_out"]
SPLITS: tuple[Split, ...] = ("train", "held_out")


def split_of(document_id: str, held_out: float) -> Split:
    """The split of a document by its id (a hash of its text), `held_out` being the expected share held out.

    Neither order nor company nor a seed changes it, and a document held out at one share is so at every larger one.
    """
    return "held_out" if int(document_id[:16], 16) < held_out * 16 ** len(document_id[:16]) else "train"
