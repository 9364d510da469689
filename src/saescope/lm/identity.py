"""Fingerprints by which a store, a coder or a checkpoint knows the model it was made with."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from torch import Tensor, nn

# What a config says of its origin, precision or code paths, not of what the model computes.
_INCIDENTAL = {
    "_attn_implementation",
    "_attn_implementation_internal",
    "_experts_implementation",
    "_name_or_path",
    "_model_name_or_path",
    "architectures",
    "dtype",
    "output_attentions",
    "output_hidden_states",
    "quantization_config",
    "return_dict",
    "torch_dtype",
    "transformers_version",
    "use_cache",
}
_SAMPLES = 1024


def weights_fingerprint(model: nn.Module, config: Any) -> str:
    """sha256 over the config and up to 1,024 evenly spaced values of every parameter.

    Values are compared as bfloat16, so that one checkpoint has one fingerprint in whatever precision it is loaded;
    the first and the last value of each parameter are always among them.
    """
    digest = hashlib.sha256(json.dumps(_meaning(config.to_dict()), sort_keys=True, default=str).encode())
    with torch.no_grad():
        for name, parameter in sorted(model.state_dict().items()):
            digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
            digest.update(_sample(parameter).contiguous().view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def tokenizer_fingerprint(tokenizer: Any) -> str:
    """sha256 over every token with its id, and which ids are special."""
    digest = hashlib.sha256()
    for token, index in sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0])):
        digest.update(f"{index}\t{token!r}\n".encode("utf-8", "surrogatepass"))
    digest.update(repr(sorted(set(tokenizer.all_special_ids))).encode())
    return digest.hexdigest()


def _sample(parameter: Tensor) -> Tensor:
    flat = parameter.detach().reshape(-1)
    count = min(_SAMPLES, flat.numel())
    where = torch.linspace(0, max(flat.numel() - 1, 0), count, dtype=torch.float64).round().long()
    return flat[where.to(flat.device)].to("cpu", torch.bfloat16)


def _meaning(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _meaning(part) for key, part in value.items() if str(key) not in _INCIDENTAL}
    return [_meaning(part) for part in value] if isinstance(value, list | tuple) else value
