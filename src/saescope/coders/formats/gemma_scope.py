"""Gemma Scope 1: `layer_L/width_16k/average_l0_n/params.npz`. Read only.

    f = pre · [pre > threshold],  pre = x · W_enc + b_enc,    x̂ = f · W_dec + b_dec        b_dec is not subtracted

The file holds the weights alone. What they read is in the names of repository and folders: `gemma-scope-2b-pt-res`, `-mlp`,
`-att`, `-transcoders`.
"""

from __future__ import annotations

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.points import in_trail
from saescope.coders.formats.reading import Parts, Reading
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights

WEIGHTS = "params.npz"
# By the end of the repository's name. An attention SAE reads the heads side by side; an MLP SAE what the stream gets, after
# the norm; a transcoder what the MLP's norm makes of the stream before its gain.
_POINTS = {"res": "blocks.{}.hook_resid_post", "att": "blocks.{}.attn.hook_z", "mlp": "blocks.{}.hook_mlp_out"}
_TRANSCODER = ("blocks.{}.ln2.hook_normalized", "blocks.{}.hook_mlp_out")
_REPOSITORY = r"(?:\w*--)?(?:[\w.-]*--)?gemma-scope-(\d+b)-(pt|it)-(res|att|mlp|transcoders)(?:-canonical)?"


def detect(source: Source) -> bool:
    if source.chosen is not None:
        return source.chosen.endswith(".npz")
    return source.has(WEIGHTS)


def read(reading: Reading) -> SparseCoder:
    source = reading.source
    file = source.weights(WEIGHTS)
    weights = Weights(source.label(file), source.arrays(file), config=WEIGHTS)
    repository = in_trail(source.trail, _REPOSITORY)
    layer = in_trail(source.trail, r"layer_(\d+)")
    kind = repository[3] if repository else None
    number = int(layer[1]) if layer else reading.told("layer")
    transcoder = kind == "transcoders" or reading.given.writes is not None
    out = "d_out" if transcoder else "d_in"
    parts = Parts(
        "jumprelu",
        weights.take("W_dec", "d_sae", out),
        weights.take("b_dec", out),
        weights.take("W_enc", "d_in", "d_sae"),
        weights.take("b_enc", "d_sae"),
        extra={"threshold": weights.take("threshold", "d_sae")},
    )
    weights.finish()
    if repository:
        suffix = "" if repository[2] == "pt" else "-it"
        reading.model(f"google/gemma-2-{repository[1]}{suffix}")
    reading.sequences(bos=None)
    if in_trail(source.trail, "embedding"):
        reading.warn("reads token embeddings before the model multiplies them by √d")
        return reading.sae(parts, reading.read_point("embed_tokens"))
    if transcoder:
        reads, writes = (name.format(number) if number is not None else None for name in _TRANSCODER)
        return reading.transcoder(parts, reading.read_point(reads), reading.write_point(writes))
    said = _POINTS[kind].format(number) if kind in _POINTS and number is not None else None
    return reading.sae(parts, reading.read_point(said))
