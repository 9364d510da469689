"""Evaluations shown with contexts from a whole store instead of the evaluation text."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from saescope.activations import Store
from saescope.evaluation.evaluation import Evaluation
from saescope.evaluation.subject import Subject
from saescope.features import check_store, top_contexts
from saescope.progress import Progress


def contexts_from_store(
    evaluations: Sequence[Evaluation],
    subjects: Sequence[Subject],
    store: Store,
    progress: Progress | None = None,
    *,
    device: torch.device | None = None,
) -> list[Evaluation]:
    """The evaluations with each feature's strongest contexts in `store`: more text, training documents included.

    `device`: where the coders encode it; by default where they are. CoderError when the store lacks what a coder reads.
    """
    for subject in subjects:
        check_store(subject.coder, store)
    titles = [document.title for document in store.documents]
    found = []
    for evaluation, subject in zip(evaluations, subjects, strict=True):

        def tell(done: int, total: int) -> None:
            if progress is not None:
                progress("read the store", done, total)

        coder = subject.coder if device is None else subject.on(device).coder
        table = top_contexts(coder, store, evaluation.contexts.value.shape[1], progress=tell)
        found.append(evaluation.with_contexts(table, titles, "the activation store, training text included"))
    return found
