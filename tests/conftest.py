"""What tests of several rooms share."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# Without a GPU the Triton kernels run in Triton's interpreter, which must be asked for before Triton is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SENTENCES = [
    "The quick brown fox jumps over the lazy dog. It's the dog's day, isn't it?",
    "A language model reads text as tokens; each token is a few bytes of it.\n\n\tIndented  twice.",
    "1,234 tokens were read in 2015, and 567 more in 2016.",
    "naïve café, Zürich, Ελλάδα, русский текст",
    "日本語の文章と中文的句子。",
    "שלום עולם, مرحبا بالعالم",
    "😀 😃 👩‍👩‍👧 🇫🇷",
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """`real` tests run unless SAESCOPE_SKIP_REAL is set, as where nothing can be fetched."""
    if os.environ.get("SAESCOPE_SKIP_REAL"):
        skip = pytest.mark.skip(reason="SAESCOPE_SKIP_REAL is set")
        for item in items:
            if item.get_closest_marker("real"):
                item.add_marker(skip)


@pytest.fixture
def benchmark_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Imports `benchmarks/NAME.py`, whose neighbours are imported as a script's are; they are forgotten afterwards."""
    before = set(sys.modules)

    def load(name: str) -> ModuleType:
        script = BENCHMARKS / f"{name}.py"
        monkeypatch.syspath_prepend(str(script.parent))
        return importlib.import_module(script.stem)

    yield load
    for name in set(sys.modules) - before:
        if BENCHMARKS in Path(getattr(sys.modules[name], "__file__", None) or "").parents:
            del sys.modules[name]


def train_byte_tokenizer(
    *, vocab_size: int = 400, bos: bool = False, trim_offsets: bool = True
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer as GPT-2's, trained on a few sentences; small enough to split most characters above
    ASCII into bytes. With `bos` it puts `<bos>` before every text, as Gemma's does."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<bos>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(SENTENCES * 3, trainer)
    steps = [processors.ByteLevel(trim_offsets=trim_offsets)]
    if bos:
        steps.append(processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)]))
    backend.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|endoftext|>", bos_token="<bos>", pad_token="<pad>"
    )


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A small byte-level tokenizer that adds no special tokens by itself."""
    return train_byte_tokenizer()


@pytest.fixture(scope="session")
def bos_tokenizer() -> PreTrainedTokenizerFast:
    """The same with a `<bos>` before every text."""
    return train_byte_tokenizer(bos=True)


def write_tiny_model(folder: Path, tokenizer: PreTrainedTokenizerFast, *, hidden_size: int = 32) -> None:
    """A random Llama of three layers, as a folder that holds a model."""
    # Here, since a model's class imports Triton, which must not be before it is told to interpret (above).
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=hidden_size, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_tiny_model_and_corpus(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """A tiny random model, `folder/model`, and sixty short documents, `folder/corpus.jsonl`."""
    write_tiny_model(folder / "model", tokenizer)
    with (folder / "corpus.jsonl").open("w") as file:
        for number in range(60):
            text = " ".join(SENTENCES[(number * 3 + i) % len(SENTENCES)] for i in range(number % 5 + 3))
            file.write(json.dumps({"title": f"document {number}", "text": f"{number}. {text}"}) + "\n")
