"""A store of a tiny model and indexes of it, for tests of the index and of what stands on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.measured import POINT, documents, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.activations import Store, harvest
from saescope.coders import SparseCoder, save
from saescope.features import FeatureIndex, StoreSource, build_index
from saescope.lm import LanguageModel
from saescope.text import Corpus, SequenceOptions

HOSTILE = (
    "<script>alert('x')</script> & \"quotes\" <b>bold</b> \u202eright to left\u202c שלום عربي 日本語の文章 😀👩‍👩‍👧 "
    "NUL\x00 bell\x07 tab\t naïve café ſ ﬁ zero\u200bwidth </textarea><img src=x onerror=alert(1)> "
) * 3
OPTIONS = SequenceOptions(context=32, bos="always")


def text_folder(folder: Path) -> Path:
    """Twelve plain documents and one of characters that break things."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, document in enumerate(documents()):
        (folder / f"{number:02d}.txt").write_text(document.text)
    (folder / "hostile.txt").write_text(HOSTILE)
    return folder


def tiny_store(folder: Path, tokenizer: PreTrainedTokenizerFast, shard_tokens: int = 256) -> Store:
    """About 2,000 tokens at one point of a random three-layer model."""
    corpus = Corpus.open(str(text_folder(folder / "text")))
    return harvest(
        tiny_lm(tokenizer),
        corpus,
        [POINT],
        folder / "store",
        tokens=2400,
        options=OPTIONS,
        batch_tokens=256,
        shard_tokens=shard_tokens,
    )


def tiny_coder(**options: Any) -> SparseCoder:
    return random_coder(threshold=1.5, **options)


def tiny_index(folder: Path, tokenizer: PreTrainedTokenizerFast, *, lm: LanguageModel | None = None) -> FeatureIndex:
    """An index in `folder/coder/index`, of a saved coder, over a store in `folder/store`."""
    store = tiny_store(folder, tokenizer)
    coder = tiny_coder()
    coder.metadata.model = dict(store.manifest.request.model)
    save(coder, folder / "coder")
    return build_index(coder, StoreSource(coder, store), folder / "coder" / "index", coder_path=folder / "coder", lm=lm)
