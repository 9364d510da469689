"""Where models come from: a demo name, a folder, a `.gguf` file, a hub id; and what is said when one cannot be had."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from interp_engine import EagerModel
from transformers.utils import logging as transformers_logging

from saescope import assets
from saescope.errors import ModelError, SaescopeError, UsageError, nearest
from saescope.paths import typed_path

_PROBE_SECONDS = 10.0


def load_engine(spec: str, dtype: torch.dtype, device: torch.device) -> tuple[EagerModel, str]:
    """The loaded model and a short name for it.

    ModelError, in one line, when there is no such model, the hub does not answer or the files cannot be loaded.
    """
    if not spec:
        raise UsageError(f"no model given; use {', '.join(assets.MODELS)}, a hub id, a folder or a .gguf file")
    if spec in assets.MODELS:
        return _from_folder(assets.fetch(spec), spec, dtype, device), spec
    path = typed_path(spec)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no file {spec}; give the path of a .gguf file")
        return _from_gguf(path, spec, dtype, device), path.stem
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{spec} has no config.json; give a folder that holds a Hugging Face model")
        return _from_folder(path, spec, dtype, device), path.resolve().name
    if path.is_file():
        raise ModelError(f"{spec} is a file but not a .gguf; give a .gguf file or a folder that holds a model")
    if _looks_like_a_path(spec):
        raise ModelError(
            f"there is no folder {spec}; use {', '.join(assets.MODELS)}, a hub id, a folder or a .gguf file"
        )
    return _from_folder(_hub_source(spec), spec, dtype, device), spec.split("/")[-1]


def wrap(hf_model: Any, tokenizer: Any, name: str) -> EagerModel:
    """An engine over a model that is already in memory."""
    with _refusals_in_one_line(name):
        return EagerModel(name, hf_model=hf_model, tokenizer=tokenizer, dtype=None)


def _looks_like_a_path(spec: str) -> bool:
    return spec.startswith(("/", "./", "../", "~")) or spec.endswith("/") or spec.count("/") > 1 or "\\" in spec


def _from_folder(source: Path | str, spec: str, dtype: torch.dtype, device: torch.device) -> EagerModel:
    with _refusals_in_one_line(spec), _quietly(spec):
        # Loaded here because interp-engine would run a checkpoint's own code where the plain tokenizer fails.
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(source), trust_remote_code=False)
        return EagerModel(str(source), dtype=dtype, device=str(device), tokenizer=tokenizer, trust_remote_code=False)


def _from_gguf(path: Path, spec: str, dtype: torch.dtype, device: torch.device) -> EagerModel:
    options: dict[str, Any] = {}
    # From transformers 5 on, packed weights stay packed unless told otherwise, which makes every matmul slow.
    if hasattr(transformers, "GgufConfig"):
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    with _refusals_in_one_line(spec), _quietly(spec):
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        hf_model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=dtype, **options
        )
        return EagerModel(path.stem, hf_model=hf_model.to(device), tokenizer=tokenizer, dtype=None)


def _hub_source(spec: str) -> Path | str:
    """What to load for a hub id: the id where the hub has it, else its folder in the local hub cache."""
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    hint = nearest(spec, assets.MODELS)
    try:
        if not constants.HF_HUB_OFFLINE:
            # Asked once and briefly: loading would retry for half a minute before it said the same.
            HfApi().model_info(spec, timeout=_PROBE_SECONDS)
            return spec
        why = "HF_HUB_OFFLINE is set"
    except HFValidationError:
        raise ModelError(
            f"{spec!r} is not a model; use {', '.join(assets.MODELS)}, a hub id, a folder or a .gguf file{hint}"
        ) from None
    except GatedRepoError:
        raise ModelError(
            f"{spec} is gated on the hub; accept its terms there and log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise ModelError(f"the hub has no model {spec}, or it is private; check the name{hint}") from None
    except Exception as error:
        why = f"the hub did not answer ({_first_line(error)})"
    try:
        return Path(snapshot_download(spec, local_files_only=True))
    except Exception:
        raise ModelError(
            f"{spec} is no demo model, folder or file, is not in the local hub cache, and {why}; "
            f"check the name or the network{hint}"
        ) from None


@contextmanager
def _refusals_in_one_line(spec: str) -> Iterator[None]:
    try:
        yield
    except SaescopeError:
        raise
    except torch.OutOfMemoryError:
        raise ModelError(
            f"{spec} does not fit in the device's memory; use a smaller dtype, model or device cpu"
        ) from None
    except Exception as error:
        raise ModelError(f"{spec} could not be loaded: {_first_line(error)}") from error


@contextmanager
def _quietly(spec: str) -> Iterator[None]:
    """Without transformers' progress bars and notices, which are not addressed to a user of saescope.

    ModelError where weights are missing: transformers makes them up at random and only says so in a notice.
    """
    heard = _Heard()
    logger = logging.getLogger("transformers")
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    handlers, propagate = list(logger.handlers), logger.propagate
    transformers_logging.set_verbosity_warning()
    transformers_logging.disable_progress_bar()
    logger.handlers, logger.propagate = [heard], False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.handlers, logger.propagate = handlers, propagate
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
    if missing := heard.missing():
        raise ModelError(
            f"{spec} lacks {len(missing)} of the model's weights ({missing[0]}{', …' if missing[1:] else ''}), which would be "
            "random; get the whole model, or the config.json that belongs to these weights"
        )


class _Heard(logging.Handler):
    """What transformers says while it loads."""

    # Rows of the report of transformers 5; the sentence of transformers 4.
    _ROW = re.compile(r"^(.+?)\s*\|\s*(?:\x1b\[[\d;]*m)?MISSING\b", re.MULTILINE)
    _SENTENCE = re.compile(r"newly initialized: \[(.*?)\]")

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())

    def missing(self) -> list[str]:
        """The names of weights that were not in the files."""
        text = "\n".join(self.said)
        listed = [name.strip(" '\"") for names in self._SENTENCE.findall(text) for name in names.split(",")]
        return self._ROW.findall(text) + listed


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    sentence = text.split(". ")[0].rstrip(".")
    return sentence if len(sentence) <= 240 else sentence[:237] + "..."
