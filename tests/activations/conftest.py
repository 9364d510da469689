"""A tiny model and text on disk, and stores harvested from them."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from saescope.activations import Store, harvest
from saescope.lm import LanguageModel
from saescope.text import Corpus, SequenceOptions

POINTS = ("resid_post.0", "mlp_out.1")
WORDS = ("the", "quick", "brown", "fox", "reads", "dogs", "text", "model", "token", "every", "few", "bytes", "café")


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """A resumed harvest wants the thread count it was begun with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_model(tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LanguageModel.from_hf(AutoModelForCausalLM.from_config(config), tokenizer, name="tiny")


@pytest.fixture(scope="session")
def lm(bos_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_model(bos_tokenizer)


@pytest.fixture
def fresh_lm(bos_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    """The same model, free to be broken by the test."""
    return tiny_model(bos_tokenizer)


@pytest.fixture(scope="session")
def text_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents of 10 to 80 words."""
    rng = random.Random(0)
    path = tmp_path_factory.mktemp("text") / "documents.jsonl"
    lines = [
        {"text": " ".join(rng.choices(WORDS, k=rng.randint(10, 80))) + f" {i}.", "title": str(i)} for i in range(60)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="session")
def corpus(text_file: Path) -> Corpus:
    return Corpus.open(str(text_file))


@pytest.fixture(scope="session")
def options() -> SequenceOptions:
    return SequenceOptions(context=32, held_out=0.25)


@pytest.fixture(scope="session")
def make(lm: LanguageModel, corpus: Corpus, options: SequenceOptions) -> Callable[..., Store]:
    """Harvests 3,000 tokens into shards of 16 sequences, 4 to a forward batch; anything can be given otherwise."""

    def harvested(out: object, points: Sequence[str] = POINTS, **changes: Any) -> Store:
        settings: dict[str, Any] = {"tokens": 3000, "options": options, "batch_tokens": 128, "shard_tokens": 512}
        settings |= changes
        model, text = settings.pop("lm", lm), settings.pop("corpus", corpus)
        return harvest(model, text, points, str(out), **settings)

    return harvested


@pytest.fixture(scope="session")
def store(make: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Shared: not to be changed."""
    return make(tmp_path_factory.mktemp("shared") / "store")


def folder_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="session")
def content() -> Callable[[Path], dict[str, bytes]]:
    """Every file of a folder with its bytes."""
    return folder_bytes
