"""Fingerprints by which a store, a coder or a checkpoint knows the model it was made with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

# The rule by which weights are fingerprinted. Fingerprints by other rules cannot be compared, so it changes with them.
_VERSION = "2"
# What the weights do not say of the function they are of, by every name that models have for it. No more of the config than
# this: libraries add, rename and drop the rest, and their next version would make another model of each.
_SETTINGS = {
    "model_type": ("model_type",),
    "hidden_size": ("hidden_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "kv_heads": ("num_key_value_heads", "num_kv_heads"),
    "vocab_size": ("vocab_size",),
    "tied": ("tie_word_embeddings",),
    "activation": ("hidden_activation", "hidden_act", "activation_function", "activation"),
    "norm_epsilon": ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
}
_ROTARY_BASES = ("rope_theta", "rope_local_base_freq", "rotary_emb_base")
_SAMPLES = 1024


def weights_fingerprint(model: nn.Module, config: Any) -> str:
    """The rule's version and a sha256 over up to 1,024 evenly spaced values of every parameter and what decides their function.

    Values are compared as bfloat16, so that one checkpoint has one fingerprint in whatever precision it is loaded;
    the first and the last value of each parameter are always among them.
    """
    digest = hashlib.sha256(json.dumps(_settings(config), sort_keys=True).encode())
    with torch.no_grad():
        for name, parameter in sorted(model.state_dict().items()):
            digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
            digest.update(_sample(parameter).contiguous().view(torch.int16).numpy().tobytes())
    return f"{_VERSION}:{digest.hexdigest()}"


def weights_differ(one: object, other: object) -> bool:
    """Whether two fingerprints are of different weights. One that is missing, or is by another rule, says nothing."""
    return _rule(one) is not None and _rule(one) == _rule(other) and one != other


def comparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Two records that hold an identity as `model`, for `==`: without its `weights` where nothing can be said of them."""
    models = [dict(record.get("model") or {}) for record in (one, other)]
    if not weights_differ(*(model.get("weights") for model in models)):
        for model in models:
            model.pop("weights", None)
    first, second = ({**record, "model": model} for record, model in zip((one, other), models, strict=True))
    return first, second


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


def _rule(fingerprint: object) -> str | None:
    if not isinstance(fingerprint, str):
        return None
    version, colon, _ = fingerprint.partition(":")
    return version if colon else "1"


def _settings(config: Any) -> dict[str, Any]:
    # Of a model for text and images, the part for text.
    config = config.get_text_config() if hasattr(config, "get_text_config") else config
    found: dict[str, Any] = {}
    for key, names in _SETTINGS.items():
        values = (getattr(config, name, None) for name in names)
        found[key] = next((value for value in values if value is not None), None)
    return found | {"rotary_bases": _rotary_bases(config)}


def _rotary_bases(config: Any) -> list[float]:
    """Bases of the rotary embedding, from `rope_theta` beside the rest or, in newer configs, `rope_parameters`, of which
    there may be one for each kind of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    places = [parameters, *(part for part in parameters.values() if isinstance(part, dict))]
    bases = [place.get("rope_theta") for place in places] + [getattr(config, name, None) for name in _ROTARY_BASES]
    return sorted({float(base) for base in bases if base is not None})
