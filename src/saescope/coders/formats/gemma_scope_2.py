"""Gemma Scope 2: `config.json` and `params.safetensors`. Read only.

    f = pre · [pre > threshold],  pre = x · w_enc + b_enc,    x̂ = f · w_dec + b_dec (+ x · affine_skip_connection)

b_dec is not subtracted. Cross-layer transcoders (`w_dec` [d_sae, layers, d]) are refused.
"""

from __future__ import annotations

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.points import our_point
from saescope.coders.formats.reading import Parts, Reading
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights

CONFIG, WEIGHTS = "config.json", "params.safetensors"


def detect(source: Source) -> bool:
    if source.chosen is not None and source.chosen != WEIGHTS:
        return source.chosen.startswith("params_layer_") and source.chosen.endswith(".safetensors")
    return source.has(WEIGHTS) or bool(source.matching("params_layer_*.safetensors"))


def read(reading: Reading) -> SparseCoder:
    source = reading.source
    if not source.has(WEIGHTS):
        reading.refuse("is a cross-layer transcoder, which writes at many layers at once; saescope does not read those")
    config = source.json(CONFIG)
    architecture = config.get("architecture", "jump_relu")
    if architecture != "jump_relu":
        reading.refuse(f"has architecture {architecture!r}; of Gemma Scope 2 saescope reads jump_relu")
    content = source.tensors(WEIGHTS)
    if "w_dec" in content and content["w_dec"].ndim == 3:
        reading.refuse("is a cross-layer transcoder, which writes at many layers at once; saescope does not read those")
    weights = Weights(source.label(WEIGHTS), content, config=CONFIG)
    reads_as, writes_as = config.get("hf_hook_point_in"), config.get("hf_hook_point_out")
    reads = reading.read_point(reads_as if isinstance(reads_as, str) else None)
    said = writes_as if isinstance(writes_as, str) else None
    sae = reading.given.writes is None and (said is None or said == reads_as or our_point(said) == reads.point)
    out = "d_in" if sae else "d_out"
    weights.expect(d_sae=config.get("width"))
    parts = Parts(
        "jumprelu",
        weights.take("w_dec", "d_sae", out),
        weights.take("b_dec", out),
        weights.take("w_enc", "d_in", "d_sae"),
        weights.take("b_enc", "d_sae"),
        extra={"threshold": weights.take("threshold", "d_sae")},
    )
    if "affine_skip_connection" in weights:
        parts.W_skip = weights.take("affine_skip_connection", "d_in", out).T
    weights.finish()
    reading.model(config.get("model_name"))
    reading.sequences(bos=None)
    if sae:
        return reading.sae(parts, reads)
    return reading.transcoder(parts, reads, reading.write_point(said))
