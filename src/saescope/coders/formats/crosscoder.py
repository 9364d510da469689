"""Two-model crosscoders in ckkissane's layout: `cfg.json` and `cc_weights.pt`. Read only.

    f = relu(Σ_m x_m · W_enc[m] + b_enc),    x̂_m = f · W_dec[:, m] + b_dec[m]        m: the two models

Both models are read at hook points of one name, so the second model's point is marked: `model_b:resid_pre.14`. Weights are in
the units that training had; the activations of each model were multiplied by a factor of its own.
"""

from __future__ import annotations

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.reading import Parts, Reading
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights
from saescope.coders.metadata import Slice

CONFIG, WEIGHTS = "cfg.json", "cc_weights.pt"
SECOND = "model_b"


def detect(source: Source) -> bool:
    return source.chosen == WEIGHTS or (source.chosen is None and source.has(WEIGHTS))


def read(reading: Reading) -> SparseCoder:
    source = reading.source
    config = source.json(CONFIG)
    file = source.weights(WEIGHTS)
    weights = Weights(source.label(file), source.pickle(file), config=CONFIG)
    weights.expect(d_in=config.get("d_in"), d_sae=config.get("dict_size"), n_models=2)
    W_enc = weights.take("W_enc", "n_models", "d_in", "d_sae")
    W_dec = weights.take("W_dec", "d_sae", "n_models", "d_in")
    b_enc, b_dec = weights.take("b_enc", "d_sae"), weights.take("b_dec", "n_models", "d_in")
    weights.finish()
    scales = reading.told("input_scale")
    if len(scales) not in (0, 2):
        reading.refuse(f"reads two models, and input_scale was given as {list(scales)}; give one number for each")
    for model, factor in enumerate(scales):
        if not 0 < factor < float("inf"):
            reading.refuse(f"cannot scale activations by {factor:g}; give positive numbers")
        W_enc[model] *= factor
        W_dec[:, model] /= factor
        b_dec[model] /= factor
    if not scales:
        reading.warn("its files do not say what each model's activations were multiplied by; they are read as they are")
    parts = Parts("standard", W_dec.flatten(1), b_dec.flatten(), W_enc.flatten(0, 1), b_enc)
    place = reading.read_point(str(config.get("hook_point") or "") or None)
    if place.token_norm is not None:
        reading.refuse("reads what lies inside a norm; saescope has no such hook point")
    reading.model(config.get("model_name"))
    reading.sequences(context=config.get("seq_len"))
    reading.facts["models"] = [config.get("model_A", config.get("model_name")), config.get("model_B")]
    width = weights.sizes["d_in"]
    both = [Slice(point=place.point, width=width), Slice(point=f"{SECOND}:{place.point}", width=width)]
    return reading.assemble(parts, both, both)
