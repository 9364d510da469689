"""OpenAI's GPT-2 autoencoders: `{layer}.pt`, a pickle of tensors and of the activation's name. Read only.

    f = activation((x - pre_bias) · encoderᵀ + latent_bias),    x̂ = f · decoderᵀ + pre_bias

v1 and v4 are ReLU; v5 is TopK on a LayerNorm of each token, undone on the output. The file does not say that it is normalised:
OpenAI's own reader goes by the activation, and so does this one.
"""

from __future__ import annotations

import re
from typing import Any

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.points import in_trail
from saescope.coders.formats.reading import Parts, Reading, whole_number
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights
from saescope.coders.token_norm import TokenNorm

_LAYER = re.compile(r"(\d+)\.pt")
_STATISTICS = ("stats_last_nonzero", "latents_activation_frequency", "latents_mean_square")
_SITE = r"(?:resid_post_mlp|resid_post_attn|resid_delta_mlp|resid_delta_attn|mlp_post_act)[^/]*/autoencoders/\d+\.pt"


def detect(source: Source) -> bool:
    if source.chosen is None:
        return any(_LAYER.fullmatch(name) for name in source.names)
    return source.chosen.endswith(".pt") and source.pickle(source.chosen).keys() >= {"pre_bias", "latent_bias"}


def read(reading: Reading) -> SparseCoder:
    source, file = reading.source, _file(reading)
    content = source.pickle(file)
    weights = Weights(source.label(file), content)
    parts = Parts(
        "standard",
        weights.take("decoder.weight", "d_in", "d_sae").T,
        weights.take("pre_bias", "d_in"),
        weights.take("encoder.weight", "d_sae", "d_in").T,
        weights.take("latent_bias", "d_sae"),
        apply_b_dec_to_input=True,
    )
    weights.ignore([*_STATISTICS, "activation", "activation_state_dict"])
    weights.finish()
    activation = content.get("activation")
    if activation is None and "activation_state_dict" not in content:
        activation = "ReLU"
        reading.warn("its file does not name its activation; ReLU, as OpenAI's own reader takes it")
    if activation == "TopK":
        parts.architecture = "topk"
        parts.options = {"k": _k(reading, file, content.get("activation_state_dict"))}
        parts.token_norm = TokenNorm("layer_norm")
        reading.warn("its file does not say that it normalises its input; v5 does, and TopK tells v5 from the others")
    elif activation != "ReLU":
        reading.refuse(f"has activation {activation!r}; of OpenAI's saescope reads TopK and ReLU")
    reading.model("openai-community/gpt2")
    reading.sequences(bos=None)
    trail = source.trail if source.chosen is not None else f"{source.trail}/{file}"
    site = in_trail(trail, _SITE)
    return reading.sae(parts, reading.read_point(site[0].strip("/") if site else None))


def _file(reading: Reading) -> str:
    source = reading.source
    if source.chosen is not None:
        return source.chosen
    files = {int(found[1]): name for name in source.names if (found := _LAYER.fullmatch(name))}
    layer: int | None = reading.told("layer")
    if layer is None and len(files) == 1:
        return next(iter(files.values()))
    if layer is None:
        reading.ask("layer", f"which of its layers to read ({min(files)} to {max(files)})")
    if layer not in files:
        reading.refuse(f"has no layer {layer}; it has {', '.join(map(str, sorted(files)))}")
    return files[layer]


def _k(reading: Reading, file: str, state: Any) -> int:
    if not isinstance(state, dict):
        reading.refuse("is a TopK autoencoder without activation_state_dict; it is incomplete")
    if state.get("postact_fn", "ReLU") != "ReLU":
        reading.refuse(f"applies {state['postact_fn']!r} to its k latents; saescope reads ReLU")
    return whole_number(reading, file, "k", state.get("k"))
