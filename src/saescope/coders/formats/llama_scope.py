"""OpenMOSS's Llama Scope, and what its library (Llamascopium, once Language-Model-SAEs) saves today. Read only.

    f_i = pre_i · [pre_i·‖W_dec row i‖ > θ_i],  pre = x·s_in · W_enc + b_enc,  x̂ = (f · W_dec + b_dec) / s_out,  s = √d / norm

with the data set's mean activation norm at what is read and what is written (`norm_activation: dataset-wise`). The factor
‖W_dec row‖ is there where `sparsity_include_decoder_norm` is, which is the default.

Llama Scope's own files (`hyperparams.json`) give one threshold, for decoder rows of length one and values in the units of the
raw activations: its library brings the weights to that form before it compares, and so does this module.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.points import our_point
from saescope.coders.formats.reading import Parts, Reading, flag, whole_number
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights
from saescope.coders.token_norm import TokenNorm

RELEASED, RELEASED_WEIGHTS = "hyperparams.json", "checkpoints/final.safetensors"
CONFIG, WEIGHTS = "config.json", "sae_weights.safetensors"
_NORM = "dataset_average_activation_norm"
_FOLDER = re.compile(r"L(\d+)(R|A|M|TC)-\d+x")


def detect(source: Source) -> bool:
    if source.chosen not in (None, WEIGHTS):
        return False
    return source.has(RELEASED) or (source.has(CONFIG, WEIGHTS) and not source.has("cfg.json"))


def read(reading: Reading) -> SparseCoder:
    source = reading.source
    released = source.has(RELEASED)
    name, file = (RELEASED, RELEASED_WEIGHTS) if released else (CONFIG, WEIGHTS)
    config = source.json(name)
    kind = config.get("sae_type", "sae")
    if kind != "sae":
        reading.refuse(f"is a {kind!r} of Llamascopium; saescope reads its SAEs and transcoders")
    if flag(reading, name, config, "use_glu_encoder"):
        reading.refuse("has a gated linear encoder (use_glu_encoder), which saescope does not have")
    weights = Weights(source.label(file), source.tensors(file), config=name)
    d_model = whole_number(reading, name, "d_model", config.get("d_model"))
    weights.expect(d_in=d_model, d_out=d_model, d_sae=config.get("d_sae"))
    parts = _weights(weights, flag(reading, name, config, "use_decoder_bias", default=True))
    parts.apply_b_dec_to_input = flag(reading, name, config, "apply_decoder_bias_to_pre_encoder", default=False)
    _choose(reading, parts, weights, config, name, released)
    weights.ignore(key for key in ("tokens_since_last_activation", "is_dead") if key in weights)
    weights.finish()
    reading.sequences(bos=None)
    reads_as, writes_as = _points(reading, config)
    reads = reading.read_point(reads_as)
    if reading.given.writes is None and (writes_as in (None, reads_as) or our_point(str(writes_as)) == reads.point):
        return reading.sae(parts, reads)
    if parts.token_norm is not None:
        reading.refuse(
            "is a transcoder that normalises each token by itself (token-wise), which saescope does not undo"
        )
    return reading.transcoder(parts, reads, reading.write_point(writes_as))


def _weights(weights: Weights, biased: bool) -> Parts:
    """Under the names of the release, or of today's library, which stores the matrices the other way."""
    if "encoder.weight" in weights:
        W_enc, W_dec = (
            weights.take("encoder.weight", "d_sae", "d_in").T,
            weights.take("decoder.weight", "d_out", "d_sae").T,
        )
        b_enc, bias = weights.take("encoder.bias", "d_sae"), "decoder.bias"
    else:
        W_enc, W_dec = weights.take("W_E", "d_in", "d_sae"), weights.take("W_D", "d_sae", "d_out")
        b_enc, bias = weights.take("b_E", "d_sae"), "b_D"
    b_dec = weights.take(bias, "d_out") if biased else torch.zeros(W_dec.shape[1])
    return Parts("jumprelu", W_dec, b_dec, W_enc, b_enc)


def _choose(
    reading: Reading, parts: Parts, weights: Weights, config: dict[str, Any], name: str, released: bool
) -> None:
    """How latents are chosen, and the scales."""
    include_norm = flag(reading, name, config, "sparsity_include_decoder_norm", default=True)
    s_in, s_out = _scales(reading, parts, weights, config)
    activation = str(config.get("act_fn", "")).lower()
    scalar = config.get("jump_relu_threshold", 0.0)
    if not isinstance(scalar, int | float) or isinstance(scalar, bool) or not math.isfinite(scalar):
        reading.refuse(f"has jump_relu_threshold = {scalar!r}, which is no number")
    if released and activation == "topk" and scalar > 0:
        activation = "jumprelu"
    norms = parts.W_dec.norm(dim=1)
    parts.scale_input(s_in, s_out)
    if activation == "topk":
        parts.architecture = "topk"
        parts.options = {"k": whole_number(reading, name, "top_k", config.get("top_k"))}
        if include_norm:
            parts.unit_rows()
    elif activation == "relu":
        parts.architecture = "standard"
    elif activation == "jumprelu" and released:
        # Values in the units of the raw activations, then rows of length one.
        parts.scale_codes(1 / s_in)
        if include_norm:
            parts.unit_rows()
        parts.extra = {"threshold": torch.full((weights.sizes["d_sae"],), float(scalar))}
    elif activation == "jumprelu":
        key = next(
            (key for key in ("activation_function.log_jumprelu_threshold", "log_jumprelu_threshold") if key in weights),
            None,
        )
        if key is None:
            reading.refuse("is a jumprelu coder without its thresholds (log_jumprelu_threshold); it is incomplete")
        threshold = weights.take(key, "d_sae").exp()
        parts.extra = {"threshold": threshold / norms.clamp(min=1e-30) if include_norm else threshold}
    else:
        reading.refuse(f"has act_fn {config.get('act_fn')!r}; of Llamascopium's saescope reads jumprelu, topk and relu")


def _scales(reading: Reading, parts: Parts, weights: Weights, config: dict[str, Any]) -> tuple[float, float]:
    """What the input is multiplied by, and the output divided by."""
    kept = {key.removeprefix(f"{_NORM}."): key for key in list(weights.names) if key.startswith(f"{_NORM}.")}
    weights.ignore(kept.values())
    mode = config.get("norm_activation", "dataset-wise")
    if mode == "inference":
        return 1.0, 1.0
    if mode == "token-wise":
        parts.token_norm = TokenNorm("constant_norm_rescale")
        return 1.0, 1.0
    if mode != "dataset-wise":
        reading.refuse(
            f"normalises its input {mode!r}, which depends on the batch; saescope reads dataset-wise and token-wise"
        )
    norms = config.get(_NORM)
    norms = dict(norms) if isinstance(norms, dict) else {}
    for side in ("in", "out"):
        point = config.get(f"hook_point_{side}")
        if side not in norms and point in kept:
            norms[side] = weights.number(kept[str(point)])
    if "in" not in norms or "out" not in norms:
        factor = reading.input_scale()
        if factor is None:
            reading.ask("input_scale", "the mean norm of its activations (dataset_average_activation_norm)")
        return factor, factor
    scales = []
    for side in ("in", "out"):
        value = norms[side]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            reading.refuse(f"has a mean activation norm of {value!r} at its {side}put; it should be a positive number")
        scales.append(math.sqrt(weights.sizes[f"d_{side}"]) / value)
    reading.facts["input_scale"], reading.facts["output_scale"] = scales
    return scales[0], scales[1]


def _points(reading: Reading, config: dict[str, Any]) -> tuple[str | None, str | None]:
    """As the configuration says; else from the folder's name: layer and R, A, M or TC."""
    said = [config.get("hook_point_in"), config.get("hook_point_out")]
    if any(isinstance(name, str) for name in said):
        return (said[0] if isinstance(said[0], str) else None), (said[1] if isinstance(said[1], str) else None)
    found = list(_FOLDER.finditer(reading.source.trail))
    if not found:
        return None, None
    layer, site = found[-1].groups()
    names = {
        "R": ("hook_resid_post",) * 2,
        "A": ("hook_attn_out",) * 2,
        "M": ("hook_mlp_out",) * 2,
        "TC": ("ln2.hook_normalized", "hook_mlp_out"),
    }[site]
    return f"blocks.{layer}.{names[0]}", f"blocks.{layer}.{names[1]}"
