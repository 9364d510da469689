"""A GGUF file as the folder transformers loads fast: safetensors, configuration and tokenizer.

Stored in float16. The quantised formats hold value = scale * q + offset with float16 scale and offset, so rounding
the product to float16 adds a relative error of 2e-4 (root mean square), a seventh of bfloat16's 1.4e-3 in the same
bytes and far below the quantisation's own; on a prompt the next-token distributions move by a KL of 2e-6. float32
would be exact and twice as large.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saescope.errors import AssetError


def convert(gguf: Path, folder: Path) -> dict[str, str]:
    """Write `gguf` into `folder` as `model.safetensors`, `config.json`, `tokenizer.json` and their companions.

    Returns the versions of the packages that decided the result. AssetError when the file cannot be read, or when a
    weight does not fit float16.
    """
    import accelerate
    import gguf as gguf_package
    import torch
    import transformers
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            model = AutoModelForCausalLM.from_pretrained(
                gguf.parent, gguf_file=gguf.name, dtype=torch.float32, **_dequantized()
            )
        except Exception as error:
            if isinstance(error, OSError) and error.errno:
                raise
            reason = " ".join(str(error).split())[:200]
            raise AssetError(
                f"transformers {transformers.__version__} could not read {gguf} ({reason}); "
                "try another version of transformers or gguf"
            ) from error
        largest = max(parameter.detach().abs().max().item() for parameter in model.parameters())
        if not largest < torch.finfo(torch.float16).max:
            raise AssetError(f"{gguf.name} holds a weight of {largest:g}, beyond float16; refused")
        model.half()
        model.config._name_or_path = ""
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    # safetensors writes for its owner alone; a cache may be shared.
    for file in folder.iterdir():
        file.chmod((folder / "config.json").stat().st_mode)
    return {
        "transformers": str(transformers.__version__),
        "gguf": _version("gguf", gguf_package),
        "accelerate": str(accelerate.__version__),
        "stored_dtype": "float16",
    }


def _dequantized() -> dict[str, Any]:
    """What makes transformers unpack the weights on loading: version 5 must be told, version 4 knows nothing else."""
    try:
        from transformers import GgufConfig
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}


def _version(distribution: str, module: object) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(distribution)
    except PackageNotFoundError:
        return str(getattr(module, "__version__", "unknown"))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence transformers' bars and notices, which would tear ours, and put its settings back."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        # The dequantising loop draws its own bar, which no setting reaches.
        with contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
