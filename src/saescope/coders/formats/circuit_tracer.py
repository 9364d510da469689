"""Per-layer transcoders as circuit-tracer keeps them: `config.yaml` and `layer_{i}.safetensors`. Read only, a layer at a time.

    f = activation(x · W_encᵀ + b_enc),    x̂ = f · W_dec + b_dec (+ x · W_skipᵀ)

The activation is JumpReLU where the file holds thresholds, TopK or ReLU where the configuration says so, else ReLU. Cross-layer
transcoders (`W_enc_{i}.safetensors`, `model_kind: cross_layer_transcoder`) are refused.
"""

from __future__ import annotations

import re

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.reading import Parts, Reading, whole_number
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights

CONFIG = "config.yaml"
_LAYER = re.compile(r"layer_(\d+)\.safetensors")
_CROSS_LAYER = re.compile(r"W_(?:enc|dec)_\d+\.safetensors")
_THRESHOLD = "activation_function.threshold"


def detect(source: Source) -> bool:
    if source.chosen is not None:
        return bool(_LAYER.fullmatch(source.chosen) or _CROSS_LAYER.fullmatch(source.chosen))
    return any(_LAYER.fullmatch(name) or _CROSS_LAYER.fullmatch(name) for name in source.names)


def read(reading: Reading) -> SparseCoder:
    source = reading.source
    config = source.yaml(CONFIG) if source.has(CONFIG) else {}
    kind = config.get("model_kind", "transcoder_set")
    if kind == "cross_layer_transcoder" or any(_CROSS_LAYER.fullmatch(name) for name in source.names):
        reading.refuse("is a cross-layer transcoder, which writes at many layers at once; saescope does not read those")
    if kind != "transcoder_set":
        reading.refuse(f"has model_kind {kind!r}; of circuit-tracer's saescope reads transcoder_set")
    layer, file = _layer(reading)
    weights = Weights(source.label(file), source.tensors(file), config=CONFIG)
    parts = Parts(
        "standard",
        weights.take("W_dec", "d_sae", "d_out"),
        weights.take("b_dec", "d_out"),
        weights.take("W_enc", "d_sae", "d_in").T,
        weights.take("b_enc", "d_sae"),
    )
    if "W_skip" in weights:
        parts.W_skip = weights.take("W_skip", "d_out", "d_in")
    activation = config.get("activation")
    if activation == "topk":
        parts.architecture = "topk"
        k = config.get("k", weights.number("k") if "k" in weights else None)
        parts.options = {"k": whole_number(reading, CONFIG, "k", k)}
        weights.ignore(["k", _THRESHOLD])
    elif _THRESHOLD in weights and activation != "relu":
        parts.architecture = "jumprelu"
        parts.extra = {"threshold": weights.take(_THRESHOLD, "d_sae")}
    elif "k" in weights and activation is None:
        parts.architecture = "topk"
        parts.options = {"k": whole_number(reading, file, "k", weights.number("k"))}
    elif activation in (None, "relu", "jump_relu"):
        if activation == "jump_relu":
            reading.refuse("is said to be jump_relu and has no thresholds; it is incomplete")
        weights.ignore(["k", _THRESHOLD])
    else:
        reading.refuse(f"has activation {activation!r}; of circuit-tracer's saescope reads relu, topk and thresholds")
    weights.finish()
    reading.model(config.get("model_name"))
    reading.sequences(bos=None)
    reads, writes = config.get("feature_input_hook"), config.get("feature_output_hook")
    return reading.transcoder(
        parts,
        reading.read_point(f"blocks.{layer}.{reads}" if isinstance(reads, str) else None),
        reading.write_point(f"blocks.{layer}.{writes}" if isinstance(writes, str) else None),
    )


def _layer(reading: Reading) -> tuple[int, str]:
    """The layer that is asked for, and its file."""
    source = reading.source
    files = {int(found[1]): name for name in source.names if (found := _LAYER.fullmatch(name))}
    if source.chosen is not None and (found := _LAYER.fullmatch(source.chosen)) is not None:
        return int(found[1]), source.chosen
    wanted: int | None = reading.told("layer")
    if wanted is None and len(files) == 1:
        return next(iter(files.items()))
    if wanted is None:
        reading.ask("layer", f"which of its transcoders to read (layers {min(files)} to {max(files)})")
    if wanted not in files:
        reading.refuse(f"has no layer {wanted}; it has layers {min(files)} to {max(files)}")
    return wanted, files[wanted]
