"""Where documents' text lies, against a look at every position."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from saescope.features.index import places as module
from saescope.features.index.places import TextPlaces


@pytest.mark.parametrize("chunk", [1, 7, 1 << 22])
@pytest.mark.parametrize("seed", range(4))
def test_every_token_of_every_document_has_its_place(monkeypatch: pytest.MonkeyPatch, seed: int, chunk: int) -> None:
    monkeypatch.setattr(module, "_CHUNK", chunk)
    random = np.random.default_rng(seed)
    n_documents = 6
    # Runs of documents (one of which has no text) and of no document, cut by sequences wherever they fall.
    document = np.repeat(random.choice([-1, 0, 1, 2, 4, 5], 40), random.integers(1, 9, 40)).astype(np.int32)
    n = len(document)
    cuts = np.sort(random.choice(np.arange(1, n), 12, replace=False))
    sequence_offsets = np.array([0, *cuts, n])
    sequence = np.repeat(np.arange(13), np.diff(sequence_offsets))
    found = TextPlaces.of(document, sequence_offsets, n_documents)
    fires = np.sort(random.choice(n, n // 3, replace=False)).astype(np.uint32)
    for number in range(n_documents):
        own = np.flatnonzero(document == number)
        places = found[number]
        assert places.length == len(own)
        assert places.positions(0, n).tolist() == own.tolist()
        assert places.positions(3, 9).tolist() == own[3:9].tolist()
        where = {position: place for place, position in enumerate(own.tolist())}
        assert [places.place_of(position) for position in range(n)] == [where.get(position) for position in range(n)]
        stretch = places.stretch_of(np.arange(len(own)))
        # A stretch ends where a sequence does or where the next token is not the document's, and nowhere else.
        assert (np.diff(stretch) > 0).tolist() == [
            bool(b != a + 1 or sequence[a] != sequence[b]) for a, b in itertools.pairwise(own)
        ]
        numbers, at = places.among(fires)
        assert fires[numbers].tolist() == [position for position in fires.tolist() if position in where]
        assert at.tolist() == [where[position] for position in fires[numbers].tolist()]
    assert found[3].length == 0
