"""Features by meaning, offline: a query against labels, the words at and around examples, output tokens and titles.

Words are weighed by rarity and, within each kind of evidence, sublinearly by how often they come (tf-idf). A query's words
also reach words that begin alike ("anarchy", "anarchist"), and, through latent semantic analysis of the index's own text
(Deerwester et al. 1990: the strongest directions of passages by words), words that come in the same passages. What the text
never says cannot be found: there is no knowledge here from elsewhere.
"""

from __future__ import annotations

import bisect
import io
import re
import zipfile
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix, vstack

from saescope.errors import FeatureIndexError, SaescopeError
from saescope.features.labels import LabelTable
from saescope.features.labels.source import LabelSource
from saescope.features.labels.words import SLOT, Words, reader, words_of
from saescope.whole_files import write_whole

SEARCH = "search"
_SCHEMA = 2
# How much each kind of evidence counts.
_WEIGHTS = {"label": 4.0, "peaks": 3.0, "outputs": 1.5, "titles": 1.0, "context": 1.0}
_BEFORE, _AFTER = 12, 6
_PASSAGE_WORDS = 60
_DIMENSIONS = 96
_LEAST_COUNT = 3
_STRONGEST = 16
# Features at once: the words around one feature's examples take some 100 KB while they are counted.
_CHUNK = 1024
_BEGINS_ALIKE = 4
_MOST_ALIKE = 12
# Shares of an exact match: of a word that begins alike, of all of nearby meaning; and what passages alone are worth.
_ALIKE, _NEAR, _PASSAGES = 0.5, 0.6, 1.5
_NEAREST, _LEAST_COSINE = 6, 0.5
_WORD = re.compile(r"[^\W_]+")
# What frames the words of a label.
# fmt: off
_FRAME = frozenset((
    "a", "about", "after", "and", "at", "before", "beginnings", "context", "ends", "ending", "first", "in",
    "later", "middles", "most", "of", "on", "or", "parts", "pieces", "soon", "start", "text", "the", "then",
    "tokens", "unfinished", "words",
))
# fmt: on


class Searched(LabelSource, Protocol):
    """An index on disk."""

    @property
    def path(self) -> Path: ...


@dataclass(frozen=True)
class MeaningSearch:
    """terms, sorted; idf [terms]; weights [terms, features], sparse; vectors [terms, dimensions], unit or zero; meaning
    [features, dimensions], unit or zero. labels: the version of the labels it was built from, "" without; outputs: whether the
    index had output tokens then."""

    terms: list[str]
    idf: NDArray[np.float32]
    weights: csr_matrix
    vectors: NDArray[np.float32]
    meaning: NDArray[np.float32]
    labels: str = ""
    outputs: bool = False

    @classmethod
    def build(cls, index: LabelSource, labels: LabelTable | None = None) -> Self:
        """Reads the index's text once: seconds for a million tokens. The result needs neither index nor labels."""
        words = words_of(index)
        said = _label_words(index, labels)
        terms = _Terms.of(words, [word for bag in said for word in bag])
        bags = {
            "label": _bag(
                [(feature, terms.number[word]) for feature, bag in enumerate(said) for word in bag], index, terms
            ),
            **_evidence(index, words, terms),
        }
        idf = _rarity(bags, terms)
        nothing = csr_matrix((index.d_sae, max(1, len(terms))))
        total = sum((_WEIGHTS[name] * _weighed(bag, idf) for name, bag in bags.items()), nothing)
        vectors = _passage_vectors(words, terms)
        meaning = _unit(np.asarray((total @ vectors), np.float32))
        version = "" if labels is None else labels.version
        return cls(terms.texts, idf, csr_matrix(total.T), vectors, meaning, version, index.has("lens_top"))

    @property
    def n_features(self) -> int:
        return int(self.meaning.shape[0])

    def query(self, text: str, n: int = 20) -> list[tuple[int, float]]:
        """The `n` features closest to a text, best first, with scores above 0 that compare within one query only."""
        wanted = self._wanted(text)
        if not wanted or n < 1:
            return []
        scores = np.zeros(self.n_features, np.float32)
        direction = np.zeros(self.vectors.shape[1], np.float32)
        for term, share in wanted.items():
            row = slice(self.weights.indptr[term], self.weights.indptr[term + 1])
            scores[self.weights.indices[row]] += share * self.idf[term] * self.weights.data[row]
            direction += share * self.idf[term] * self.vectors[term]
        length = float(np.linalg.norm(direction))
        if length > 0:
            cosine = self.meaning @ (direction / length)
            # Relative to the best match by words, so that passages order what words do not tell apart.
            scores += _PASSAGES * np.maximum(cosine - _LEAST_COSINE, 0) * max(1.0, float(scores.max()) / 4)
        best = np.argsort(-scores, kind="stable")[:n]
        return [(int(feature), float(scores[feature])) for feature in best if scores[feature] > 0]

    def _wanted(self, text: str) -> dict[int, float]:
        """The terms of a query and those it reaches, with the share of an exact match of each."""
        wanted: dict[int, float] = {}
        for word in dict.fromkeys(match.group().casefold() for match in _WORD.finditer(text[:2000])):
            own = self._number(word)
            reached = {own: 1.0} if own is not None else {}
            for term in self._alike(word):
                reached.setdefault(term, _ALIKE)
            if own is not None:
                # All of them together weigh less than the word itself, whatever their own rarity.
                for term, cosine in self._near(own):
                    rarer = min(1.0, float(self.idf[own] / self.idf[term]))
                    reached.setdefault(term, _NEAR * cosine / _NEAREST * rarer)
            for term, share in reached.items():
                wanted[term] = max(wanted.get(term, 0.0), share)
        return wanted

    def _number(self, word: str) -> int | None:
        at = bisect.bisect_left(self.terms, word)
        return at if at < len(self.terms) and self.terms[at] == word else None

    def _alike(self, word: str) -> list[int]:
        """Terms that begin with the word, or that the word begins with."""
        found: list[int] = []
        if len(word) >= _BEGINS_ALIKE:
            at = bisect.bisect_right(self.terms, word)
            while at < len(self.terms) and self.terms[at].startswith(word) and len(found) < _MOST_ALIKE:
                found.append(at)
                at += 1
        for end in range(len(word) - 1, max(_BEGINS_ALIKE, len(word) // 2) - 1, -1):
            number = self._number(word[:end])
            if number is not None:
                found.append(number)
        return found

    def _near(self, term: int) -> Iterable[tuple[int, float]]:
        if not self.vectors[term].any():
            return []
        cosine = self.vectors @ self.vectors[term]
        best = np.argpartition(-cosine, min(_NEAREST, cosine.size - 1))[: _NEAREST + 1]
        close = [other for other in best[np.argsort(-cosine[best])] if other != term and cosine[other] > _LEAST_COSINE]
        return [(int(other), float(cosine[other])) for other in close[:_NEAREST]]

    def save(self, path: Path) -> Path:
        """One file, there whole or not at all."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            schema=np.array(_SCHEMA),
            terms=np.frombuffer("\n".join(self.terms).encode(), np.uint8),
            idf=self.idf,
            data=self.weights.data.astype(np.float16),
            indices=self.weights.indices.astype(np.int32),
            indptr=self.weights.indptr.astype(np.int64),
            vectors=self.vectors.astype(np.float16),
            meaning=self.meaning.astype(np.float16),
            labels=np.frombuffer(self.labels.encode(), np.uint8),
            outputs=np.array(self.outputs),
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_whole(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path) -> Self:
        """FeatureIndexError, naming the file, where it is missing or damaged."""
        try:
            with np.load(path, allow_pickle=False) as kept:
                if int(kept["schema"]) != _SCHEMA:
                    raise FeatureIndexError(f"{path} is of schema {int(kept['schema'])}; remove it to build it again")
                terms = kept["terms"].tobytes().decode().split("\n")
                meaning = kept["meaning"].astype(np.float32)
                shape = (len(terms), meaning.shape[0])
                weights = csr_matrix((kept["data"].astype(np.float32), kept["indices"], kept["indptr"]), shape=shape)
                vectors = kept["vectors"].astype(np.float32)
                labels = kept["labels"].tobytes().decode()
                return cls(terms, kept["idf"], weights, vectors, meaning, labels, bool(kept["outputs"]))
        except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
            raise FeatureIndexError(f"cannot read {path} ({reason}); remove it to build it again") from None

    @classmethod
    def of(cls, index: Searched, labels: LabelTable | None = None) -> Self:
        """The one kept beside the index, built (and kept) first where there is none from these labels and, where the index has
        them, output tokens."""
        version, outputs = "" if labels is None else labels.version, index.has("lens_top")
        path = Path(index.path) / SEARCH / "meaning.npz"
        if path.exists():
            try:
                kept = cls.load(path)
            except FeatureIndexError:
                # It follows from the index and its labels, so damage costs seconds, not an error.
                kept = None
            if kept is not None and (kept.labels, kept.outputs) == (version, outputs):
                return kept
        built = cls.build(index, labels)
        # An index that cannot be written to is searched all the same.
        with suppress(SaescopeError, OSError):
            built.save(path)
        return built


class _Terms:
    """The words that can be searched for: those of labels and those the text has more than once."""

    def __init__(self, texts: list[str], of_item: NDArray[np.int32], counts: NDArray[np.int64]) -> None:
        self.texts, self.of_item, self.counts = texts, of_item, counts
        self.number = {text: number for number, text in enumerate(texts)}

    def __len__(self) -> int:
        return len(self.texts)

    @staticmethod
    def of(words: Words, more: Iterable[str]) -> _Terms:
        counts = np.bincount(words.run_item, minlength=words.n_items)
        chosen = [
            int(item)
            for item in np.flatnonzero(counts >= 2)
            if len(words.vocabulary[item]) <= 40 and _WORD.fullmatch(words.vocabulary[item])
        ]
        texts = sorted({words.vocabulary[item] for item in chosen} | set(more))
        number = {text: place for place, text in enumerate(texts)}
        of_item = np.full(words.n_items, -1, np.int32)
        of_item[chosen] = [number[words.vocabulary[item]] for item in chosen]
        total = np.zeros(len(texts), np.int64)
        total[of_item[chosen]] = counts[chosen]
        return _Terms(texts, of_item, total)


def _label_words(index: LabelSource, labels: LabelTable | None) -> list[list[str]]:
    """The words of every feature's label that say something; of a contrastive one, not those that frame them."""
    found: list[list[str]] = [[] for _ in range(index.d_sae)]
    for label in labels.labels if labels is not None else ():
        groups = label.parts.get("groups")
        text = label.text
        if groups is not None:
            text = " ".join([*(word for group in groups for word in group["words"]), *label.parts.get("peaks", [])])
        own = [match.group().casefold() for match in _WORD.finditer(text)]
        found[label.feature] = own if groups is not None else [word for word in own if word not in _FRAME]
    return found


def _bag(pairs: list[tuple[int, int]], index: LabelSource, terms: _Terms) -> csr_matrix:
    features = np.array([feature for feature, _ in pairs], np.int64)
    return _counted(features, np.array([term for _, term in pairs], np.int64), index.d_sae, terms)


def _counted(features: NDArray[Any], numbers: NDArray[Any], n_features: int, terms: _Terms) -> csr_matrix:
    kept = numbers >= 0
    ones = np.ones(int(kept.sum()), np.float32)
    found = coo_matrix((ones, (features[kept], numbers[kept])), (n_features, max(1, len(terms)))).tocsr()
    found.sum_duplicates()
    return found


def _evidence(index: LabelSource, words: Words, terms: _Terms) -> dict[str, csr_matrix]:
    """What is at and around examples, what the weights promote, and the titles of the documents with most firings."""
    parts = [_at_and_around(index, first, words, terms) for first in range(0, index.d_sae, _CHUNK)]
    found = {name: vstack([part[name] for part in parts], "csr") for name in ("peaks", "context")}
    if index.has("lens_top"):
        tops = np.asarray(index.arrays["lens_top"])
        read = reader(index, words.anchor)
        of_token = {
            int(token): terms.number.get(read([int(token)]).strip().casefold(), -1) for token in np.unique(tops)
        }
        numbers = np.array([[of_token[int(token)] for token in row] for row in tops])
        features = np.repeat(np.arange(len(tops)), tops.shape[1])
        found["outputs"] = _counted(features, numbers.ravel(), index.d_sae, terms)
    if index.has("top_documents"):
        of_document = [
            [terms.number.get(match.group().casefold(), -1) for match in _WORD.finditer(str(document.title))]
            for document in index.documents
        ]
        pairs = [
            (feature, number)
            for feature, row in enumerate(np.asarray(index.arrays["top_documents"])[:, :2].tolist())
            for document in row
            if document >= 0
            for number in of_document[document]
        ]
        found["titles"] = _bag(pairs, index, terms)
    return found


def _at_and_around(index: LabelSource, first: int, words: Words, terms: _Terms) -> dict[str, csr_matrix]:
    """What is at and around the examples of the features from `first` on, a chunk of them."""
    last = min(first + _CHUNK, index.d_sae)
    features, positions = _examples(index, first, last)
    run = words.run_of[positions]
    around = run[:, None] + np.arange(-_BEFORE, _AFTER + 1)
    inside = (around >= 0) & (around < words.run_item.size)
    around = around.clip(0, words.run_item.size - 1)
    inside &= words.region[words.run_start[around]] == words.region[positions][:, None]
    near = np.where(inside, terms.of_item[words.run_item[around]], -1)
    at = terms.of_item[words.slots[positions, SLOT["inside"]]]
    return {
        "peaks": _counted(features, at, last - first, terms),
        "context": _counted(np.repeat(features, near.shape[1]), near.ravel(), last - first, terms),
    }


def _examples(index: LabelSource, first: int, last: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(feature, counted from `first`; position) of every example of features[first:last], of the index's own choice where it
    has made one."""
    if index.has("example_positions"):
        chosen = np.asarray(index.arrays["example_positions"][first:last])
        flat = chosen.reshape(chosen.shape[0], -1)
        row, slot = np.nonzero(flat != np.uint32(0xFFFFFFFF))
        return row, flat[row, slot].astype(np.int64)
    offsets = np.asarray(index.arrays["feature_offsets"][first : last + 1])
    features, positions = [], []
    for feature in np.flatnonzero(np.diff(offsets)).tolist():
        own = slice(int(offsets[feature]), int(offsets[feature + 1]))
        strongest = np.argsort(-np.asarray(index.arrays["feature_values"][own], np.float32), kind="stable")[:_STRONGEST]
        positions.append(np.asarray(index.arrays["feature_positions"][own])[strongest].astype(np.int64))
        features.append(np.full(strongest.size, feature, np.int64))
    if not features:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(features), np.concatenate(positions)


def _rarity(bags: dict[str, csr_matrix], terms: _Terms) -> NDArray[np.float32]:
    """log of (features + 1) / (features whose evidence has the term + 1), which is small for words that stand everywhere."""
    present: Any = sum(bag.sign() for bag in bags.values())
    n_features, n_terms = present.shape
    having = np.bincount(present.indices, minlength=n_terms)
    rarity: NDArray[np.float32] = np.log((n_features + 1) / (having + 1)).astype(np.float32)[: max(1, len(terms))]
    return np.maximum(rarity, 0.05)


def _weighed(bag: csr_matrix, idf: NDArray[np.float32]) -> csr_matrix:
    """(1 + log count)·idf, every feature's vector of length one."""
    found = bag.astype(np.float32).copy()
    found.data = (1 + np.log(found.data)) * idf[found.indices]
    length = np.sqrt(np.asarray(found.multiply(found).sum(1)).ravel())
    scale = np.divide(1, length, out=np.zeros_like(length), where=length > 0)
    found.data *= np.repeat(scale, np.diff(found.indptr)).astype(np.float32)
    return found


def _passage_vectors(words: Words, terms: _Terms) -> NDArray[np.float32]:
    """Unit vectors of terms whose angles say how alike their passages are; zero for rare terms and those of every passage."""
    from sklearn.utils.extmath import randomized_svd

    vectors = np.zeros((max(1, len(terms)), _DIMENSIONS), np.float32)
    region = words.region[words.run_start[:-1]]
    first = np.maximum.accumulate(np.where(np.diff(region, prepend=-1) != 0, np.arange(region.size), 0))
    passage = np.cumsum((np.arange(region.size) - first) % _PASSAGE_WORDS == 0) - 1
    number = terms.of_item[words.run_item]
    n_passages = int(passage[-1]) + 1 if passage.size else 0
    usable = (terms.counts >= _LEAST_COUNT) & (terms.counts < max(n_passages / 4, 10))
    kept = (number >= 0) & usable[np.maximum(number, 0)] if usable.size else np.zeros(number.size, bool)
    columns = np.flatnonzero(usable)
    if min(n_passages, columns.size) < 8 or not kept.any():
        return vectors
    column_of = np.full(usable.size, -1)
    column_of[columns] = np.arange(columns.size)
    counts = coo_matrix(
        (np.ones(int(kept.sum()), np.float32), (passage[kept], column_of[number[kept]])), (n_passages, columns.size)
    ).tocsr()
    having = np.bincount(counts.indices, minlength=columns.size)
    found = _weighed(counts, np.log(n_passages / np.maximum(having, 1)).astype(np.float32))
    # With as many directions as words every word would be like itself alone.
    k = max(2, min(_DIMENSIONS, n_passages // 6, columns.size // 6))
    _, strength, directions = randomized_svd(found, k, n_iter=2, random_state=0)
    vectors[columns, :k] = _unit((directions * np.sqrt(strength)[:, None]).T.astype(np.float32))
    return vectors


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float32] = np.divide(rows, length, out=np.zeros_like(rows), where=length > 1e-12)
    return unit
