"""Features by what they are about, offline: from the text they fire in, their output tokens and their labels.

Every feature is a bag of the words around its strongest firings, at their peaks, among its output tokens and in its label.
Words that occur around the same features come to lie together in the bags' principal directions (latent semantic analysis,
Deerwester et al. 1990), so a query also finds features whose words it doesn't have. Nothing but the index is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from saescope.features.index import FeatureIndex
from saescope.features.index.loops import NONE

_EXAMPLES, _REACH = 8, 8
_DIRECTIONS = 96
# How much a word counts by where it stands.
_AROUND, _AT_PEAK, _OUTPUT, _IN_LABEL = 1.0, 4.0, 2.0, 6.0
_LEAST = 0.12
_MOST_FOUND = 2_000


class MeaningSearch:
    """Made at the first query, and again when the automatic labels are others."""

    def __init__(self, index: FeatureIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._version: str | None = None
        self._made: _Bags | None = None

    def search(
        self, query: str, labels: Mapping[int, str], version: str, people: Mapping[int, str]
    ) -> dict[int, float]:
        """Relevance in (0, 1] of the features nearest to the query. labels: the automatic ones, of that version; people: those
        that people wrote, which count by themselves."""
        with self._lock:
            if self._made is None or self._version != version:
                self._made, self._version = _Bags(self._index, labels), version
            made = self._made
        found = made.relevance(query)
        if found is None:
            return {}
        for feature, text in people.items():
            found[feature] = max(found[feature], made.similarity(query, text))
        order = np.argsort(-found, kind="stable")[:_MOST_FOUND]
        return {int(feature): round(float(found[feature]), 4) for feature in order if found[feature] >= _LEAST}


class _Bags:
    def __init__(self, index: FeatureIndex, labels: Mapping[int, str]) -> None:
        self._index = index
        self._words: dict[str, int] = {}
        self._word_of_token: dict[int, int] = {}
        entries = [self._around(), self._outputs(), self._labels(labels)]
        rows, tokens, weights = (np.concatenate(parts) for parts in zip(*entries, strict=True))
        words = self._of_tokens(tokens)
        kept = words >= 0
        counts = sparse.csr_matrix(
            (weights[kept], (rows[kept], words[kept])), shape=(index.d_sae, max(1, len(self._words))), dtype=np.float32
        )
        counts.sum_duplicates()
        frequency = np.bincount(counts.indices, minlength=counts.shape[1])
        self._idf = np.log((1 + index.d_sae) / (1 + frequency)).astype(np.float32)
        self._bags = self._weighted(counts)
        # Imported here: a second that a server need not begin with.
        from sklearn.decomposition import TruncatedSVD

        n = min(_DIRECTIONS, min(self._bags.shape) - 1)
        self._svd = TruncatedSVD(n, n_iter=3, random_state=0).fit(self._bags) if n >= 2 else None
        self._places = None if self._svd is None else _unit(self._svd.transform(self._bags))

    def relevance(self, query: str) -> NDArray[np.float64] | None:
        """[d_sae], None where the query has no word that the index knows."""
        bag = self._bag(query)
        if bag is None:
            return None
        found: NDArray[np.float64] = np.asarray((self._bags @ bag.T).todense(), np.float64).ravel()
        if self._svd is not None and self._places is not None:
            found = np.clip(0.5 * found + 0.5 * (self._places @ _unit(self._svd.transform(bag))[0]), 0.0, 1.0)
        return found

    def similarity(self, query: str, text: str) -> float:
        one, other = self._bag(query), self._bag(text)
        return 0.0 if one is None or other is None else float((one @ other.T).toarray()[0, 0])

    def _bag(self, text: str) -> sparse.csr_matrix | None:
        words = self._of_tokens(np.array(self._tokenized(text), np.int64), grow=False)
        words = words[words >= 0]
        if not len(words):
            return None
        counts = sparse.csr_matrix(
            (np.ones(len(words), np.float32), (np.zeros(len(words), np.int64), words)), shape=(1, len(self._idf))
        )
        counts.sum_duplicates()
        bag = self._weighted(counts)
        return bag if bag.nnz else None

    def _weighted(self, counts: sparse.csr_matrix) -> sparse.csr_matrix:
        bags = counts.copy()
        bags.data = (1 + np.log(np.maximum(bags.data, 1))) * self._idf[bags.indices]
        lengths = np.sqrt(np.asarray(bags.multiply(bags).sum(1)).ravel())
        return sparse.diags(1 / np.maximum(lengths, 1e-12)).dot(bags).tocsr()

    def _around(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        index = self._index
        peaks = np.asarray(index.arrays["example_positions"][:, 0, :_EXAMPLES])
        feature, example = np.nonzero(peaks != NONE)
        peak = peaks[feature, example].astype(np.int64)
        offsets = np.arange(-_REACH, _REACH + 1)
        positions = np.clip(peak[:, None] + offsets, 0, index.n_positions - 1)
        document = index.arrays["document"]
        same = document[positions] == document[peak][:, None]
        weights = np.broadcast_to(np.where(offsets == 0, _AT_PEAK, _AROUND), positions.shape)
        rows = np.broadcast_to(feature[:, None], positions.shape)
        tokens = index.arrays["tokens"][positions].astype(np.int64)
        return rows[same].astype(np.int64), tokens[same], weights[same].astype(np.float32)

    def _outputs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        if not self._index.has("lens_top"):
            return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
        tokens = np.asarray(self._index.arrays["lens_top"]).astype(np.int64)
        rows = np.repeat(np.arange(len(tokens)), tokens.shape[1])
        # What never fires has no meaning to be found by.
        live = self._index.count[rows] > 0
        return rows[live], tokens.ravel()[live], np.full(int(live.sum()), _OUTPUT, np.float32)

    def _labels(self, labels: Mapping[int, str]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        rows: list[int] = []
        tokens: list[int] = []
        for feature, text in labels.items():
            own = self._tokenized(text)
            tokens += own
            rows += [feature] * len(own)
        return np.array(rows, np.int64), np.array(tokens, np.int64), np.full(len(rows), _IN_LABEL, np.float32)

    def _tokenized(self, text: str) -> list[int]:
        """As in the middle of a text: a space before."""
        ids: list[int] = self._index.tokenizer(f" {text[:2000]}", add_special_tokens=False)["input_ids"]
        return ids

    def _of_tokens(self, tokens: Iterable[int] | NDArray[np.int64], *, grow: bool = True) -> NDArray[np.int64]:
        """The word of each token, -1 where it is none: its letters in lower case, so that its forms fall together."""
        distinct, inverse = np.unique(np.asarray(tokens, np.int64), return_inverse=True)
        words = np.array([self._word(int(token), grow=grow) for token in distinct], np.int64)
        return words[inverse] if len(words) else np.zeros(0, np.int64)

    def _word(self, token: int, *, grow: bool) -> int:
        if token not in self._word_of_token:
            text = self._index.pieces([token])[0].strip().lower()
            if (len(text) < 2 and text.isascii()) or not any(map(str.isalnum, text)):
                self._word_of_token[token] = -1
            elif text in self._words or grow:
                self._word_of_token[token] = self._words.setdefault(text, len(self._words))
            else:
                return -1
        return self._word_of_token[token]


def _unit(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    unit: NDArray[np.float64] = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    return unit
