"""saescope's feature index, timed on request; see `peers/timed.py` for the requests.

    python index_worker.py [--threads 1]

A subject's spec: coder (folder), model, corpus, context, tokens, dtype, and a part:

    text     a whole index from text, the model's forward included
    store    a whole index from a store of the same tokens, which is made beforehand
    forward  the model alone, on the same tokens

Seconds are the processor's.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

# Before torch, as on the command line: it chooses how torch's threads wait.
import saescope

# isort: split
import numpy as np
import torch

from saescope import Corpus, LanguageModel
from saescope.activations import KeptRule, Store, harvest
from saescope.activations.batches import BATCH_TOKENS, Excerpt, batch_sequences, in_batches
from saescope.features.index import FeatureIndex, StoreSource, TextSource, build_index
from saescope.text import SequenceOptions

sys.path.append(str(Path(__file__).parent / "peers"))
from timed import Subject, processor_seconds, serve

_models: dict[tuple[str, str], LanguageModel] = {}


def _model(spec: dict[str, Any]) -> LanguageModel:
    key = (spec["model"], spec["dtype"])
    if key not in _models:
        _models[key] = LanguageModel.load(spec["model"], device="cpu", dtype=spec["dtype"])
    return _models[key]


class Indexes:
    def __init__(self, spec: dict[str, Any]) -> None:
        self._spec = spec
        self._lm, self._corpus = _model(spec), Corpus.open(spec["corpus"])
        self._coder = saescope.load(spec["coder"])
        self._options = SequenceOptions(context=spec["context"])
        self._folder = Path(tempfile.mkdtemp())
        self.tokens = spec["tokens"]
        self._store: Store | None = None
        self._index: FeatureIndex | None = None
        if spec["part"] == "store":
            points = [part.point for part in self._coder.reads]
            self._store = harvest(
                self._lm, self._corpus, points, self._folder / "store", tokens=self.tokens, options=self._options
            )

    def load(self) -> None:
        shutil.rmtree(self._folder / "index", ignore_errors=True)

    def step(self) -> float:
        return processor_seconds(self._build)

    def _build(self) -> None:
        source: Any
        if self._store is not None:
            source = StoreSource(self._coder, self._store)
        else:
            source = TextSource(self._coder, self._lm, self._corpus, tokens=self.tokens, options=self._options)
        self._index = build_index(self._coder, source, self._folder / "index", lm=self._lm)

    def ask(self) -> dict[str, Any]:
        index = self._index
        assert index is not None
        return {
            "features": index.d_sae,
            "live": index.manifest.counts.live,
            "kept": index.n_tokens,
            "positions": index.n_positions,
            "nonzeros": index.nnz,
            "seconds": index.manifest.seconds,
            "model_dtype": str(self._lm.dtype).removeprefix("torch."),
            "arrays": sorted(path.stem for path in (index.path / "arrays").iterdir()),
        }

    def close(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


class Forward:
    """Also writes the tokens [sequences, context] to `tokens_file`, and to `reference_file` the residual stream of the first
    sequence in float32 with NaN where the coder's rule leaves a position out."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self._lm = _model(spec)
        coder = saescope.load(spec["coder"])
        options = SequenceOptions(context=spec["context"])
        rows = list(Excerpt(self._lm, Corpus.open(spec["corpus"]), options, spec["tokens"]))
        self._batches = list(in_batches(iter(rows), batch_sequences(BATCH_TOKENS, options)))
        self.tokens = sum(batch.n_tokens for batch in self._batches)
        rule = KeptRule.from_dict(coder.metadata.kept_rule)
        self._reads = [part.point for part in coder.reads]
        self._points = list(dict.fromkeys([*self._reads, *rule.points]))
        if "tokens_file" in spec:
            tokens = np.concatenate([batch.tokens for batch in self._batches])
            np.save(spec["tokens_file"], tokens.astype(np.int64))
            self._write_reference(rule, spec)

    def _write_reference(self, rule: KeptRule, spec: dict[str, Any]) -> None:
        exact = _model(spec | {"dtype": "float32"})
        batch = self._batches[0]
        activations = batch.run(exact, self._points)
        kept = rule.kept(batch.token_tensor(torch.device("cpu")), activations)
        x = activations[self._reads[0]][0].float()
        x[~kept[0]] = float("nan")
        np.save(spec["reference_file"], x.numpy())

    def load(self) -> None:
        """Nothing."""

    def step(self) -> float:
        def run() -> None:
            for batch in self._batches:
                batch.run(self._lm, self._points)

        return processor_seconds(run)

    def ask(self) -> dict[str, Any]:
        return {"special": sorted(self._lm.special_ids)}


def make(spec: dict[str, Any]) -> Subject:
    return Forward(spec) if spec["part"] == "forward" else Indexes(spec)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="default: torch's own choice")
    given = parser.parse_args()
    serve(make, ["saescope"], given.threads)


if __name__ == "__main__":
    main()
