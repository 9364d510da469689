"""dictionary_learning: `trainer_i/config.json` and `ae.pt`, a pickle of tensors.

Each class is told by `dict_class` in the configuration or by its tensors' names. b_dec (`bias`, `decoder_bias`) is subtracted
from the input by all but AutoEncoderNew and JumpReluAutoEncoder. BatchTopK and Matryoshka are their threshold's.
A backup of a run that had not ended ({`step`, `ae`, `optimizer`, `config`, `norm_factor`}) is read too, its biases scaled.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.reading import Parts, Reading, whole_number
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights
from saescope.errors import CoderError

CONFIG, WEIGHTS = "config.json", "ae.pt"
_BACKUP = {"step", "ae", "optimizer"}
_CLASSES = (
    "AutoEncoder",
    "AutoEncoderNew",
    "GatedAutoEncoder",
    "AutoEncoderTopK",
    "BatchTopKSAE",
    "MatryoshkaBatchTopKSAE",
    "JumpReluAutoEncoder",
)


def detect(source: Source) -> bool:
    if source.chosen is None:
        return source.has(WEIGHTS)
    if not source.chosen.endswith(".pt"):
        return False
    if source.chosen == WEIGHTS:
        return True
    content = source.pickle(source.chosen)
    return content.keys() >= _BACKUP or _class_of(content) is not None


def read(reading: Reading) -> SparseCoder:
    source = reading.source
    file = source.weights(WEIGHTS)
    content = source.pickle(file)
    said = _configuration(source)
    factor = 1.0
    if content.keys() >= _BACKUP:
        content, said, factor = _backup(reading, content, said)
    trainer = said.get("trainer")
    trainer = trainer if isinstance(trainer, dict) else said
    weights = Weights(source.label(file), content, config=CONFIG)
    weights.expect(d_in=trainer.get("activation_dim"), d_sae=trainer.get("dict_size"))
    name = trainer.get("dict_class") or _class_of(content)
    if name == "ambiguous":
        reading.refuse(
            f"holds tensors that AutoEncoderTopK and BatchTopKSAE share; put its {CONFIG}, which says which, beside it"
        )
    if name not in _CLASSES:
        reading.refuse(f"holds a {name or 'dictionary of an unknown class'}; saescope reads {', '.join(_CLASSES)}")
    parts = _parts(reading, str(name), weights, trainer)
    weights.finish()
    if factor != 1.0:
        _scale_biases(parts, factor)
    reading.model(trainer.get("lm_name"))
    buffer = said.get("buffer")
    reading.sequences(context=buffer.get("ctx_len") if isinstance(buffer, dict) else None)
    return reading.sae(parts, reading.read_point(_point(trainer)))


def _configuration(source: Source) -> dict[str, Any]:
    """Beside the weights, or above them: a run's checkpoints (`checkpoints/ae_500.pt`) lie in a folder of their own."""
    if source.has(CONFIG):
        return source.json(CONFIG)
    above = source.above()
    return above.json(CONFIG) if above is not None and above.has(CONFIG) else {}


def _class_of(content: dict[str, Any]) -> str | None:
    """The class by its tensors; `ambiguous` where two classes share theirs."""
    keys = content.keys()
    if keys >= {"gate_bias", "mag_bias", "r_mag"}:
        return "GatedAutoEncoder"
    if keys >= {"W_enc", "W_dec", "group_sizes"}:
        return "MatryoshkaBatchTopKSAE"
    if keys >= {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"}:
        return "JumpReluAutoEncoder"
    if keys >= {"encoder.weight", "k", "b_dec"}:
        return "ambiguous"
    if keys >= {"encoder.weight", "decoder.weight", "decoder.bias"}:
        return "AutoEncoderNew"
    return "AutoEncoder" if keys >= {"encoder.weight", "decoder.weight", "bias"} else None


def _parts(reading: Reading, name: str, weights: Weights, trainer: dict[str, Any]) -> Parts:
    if name in ("JumpReluAutoEncoder", "MatryoshkaBatchTopKSAE"):
        W_enc, b_enc = weights.take("W_enc", "d_in", "d_sae"), weights.take("b_enc", "d_sae")
        W_dec, b_dec = weights.take("W_dec", "d_sae", "d_in"), weights.take("b_dec", "d_in")
    else:
        W_enc = weights.take("encoder.weight", "d_sae", "d_in").T
        W_dec = weights.take("decoder.weight", "d_in", "d_sae").T
        b_enc = weights.take("gate_bias" if name == "GatedAutoEncoder" else "encoder.bias", "d_sae")
        bias = {"AutoEncoder": "bias", "AutoEncoderNew": "decoder.bias", "GatedAutoEncoder": "decoder_bias"}
        b_dec = weights.take(bias.get(name, "b_dec"), "d_in")
    parts = Parts("standard", W_dec, b_dec, W_enc, b_enc)
    parts.apply_b_dec_to_input = name not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    if name == "GatedAutoEncoder":
        parts.architecture = "gated"
        parts.extra = {"b_mag": weights.take("mag_bias", "d_sae"), "r_mag": weights.take("r_mag", "d_sae")}
    elif name == "JumpReluAutoEncoder":
        parts.architecture = "jumprelu"
        parts.extra = {"threshold": weights.take("threshold", "d_sae")}
    elif name == "AutoEncoderTopK":
        parts.architecture = "topk"
        parts.options = {"k": _k(reading, weights, trainer)}
        # Kept beside, for a way of encoding that is not the class's own.
        weights.ignore(["threshold"])
    elif name in ("BatchTopKSAE", "MatryoshkaBatchTopKSAE"):
        parts.architecture = "jumprelu"
        k = _k(reading, weights, trainer)
        threshold = weights.number("threshold")
        reading.metadata.trained_as = "matryoshka" if name.startswith("Matryoshka") else "batchtopk"
        reading.metadata.options = {"k": k}
        if threshold < 0:
            reading.warn(
                f"its threshold was never estimated ({threshold:g}), so every positive latent is active: many more than k = {k}"
            )
        parts.extra = {"threshold": torch.full((weights.sizes["d_sae"],), threshold)}
        if name.startswith("Matryoshka"):
            reading.metadata.levels = _levels(reading, weights)
    return parts


def _k(reading: Reading, weights: Weights, trainer: dict[str, Any]) -> int:
    said = trainer.get("k")
    kept = weights.number("k") if "k" in weights else said
    k = whole_number(reading, WEIGHTS, "k", kept)
    if said is not None and said != k:
        reading.refuse(f"has k = {k} in {WEIGHTS} and {said!r} in {CONFIG}; they are of different runs")
    return k


def _levels(reading: Reading, weights: Weights) -> list[int]:
    sizes = weights.integers("group_sizes")
    levels = torch.tensor(sizes).cumsum(0).tolist()
    if min(sizes) <= 0 or levels[-1] != weights.sizes["d_sae"]:
        reading.refuse(f"has group_sizes {sizes}, which do not add up to its {weights.sizes['d_sae']} latents")
    return [int(level) for level in levels]


def _backup(
    reading: Reading, content: dict[str, Any], said: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """The dictionary within a backup, its configuration, and what its biases still have to be multiplied by."""
    inner, config, factor = content["ae"], content.get("config"), content.get("norm_factor")
    if not isinstance(inner, dict):
        reading.refuse(f"is a backup of a run whose `ae` is a {type(inner).__name__}, not named tensors")
    reading.warn(f"is a backup of a run at step {content['step']}, not its final coder")
    if factor is not None and (isinstance(factor, bool) or not isinstance(factor, int | float) or not factor > 0):
        reading.refuse(f"is a backup of a run with norm_factor = {factor!r}; it should be a positive number")
    return dict(inner), said or (config if isinstance(config, dict) else {}), float(factor or 1.0)


def _scale_biases(parts: Parts, factor: float) -> None:
    """From activations divided by `factor` to raw ones: codes grow with it, as in the final file."""
    assert parts.b_enc is not None
    parts.b_enc, parts.b_dec = parts.b_enc * factor, parts.b_dec * factor
    for name in ("threshold", "b_mag"):
        value = parts.extra.get(name)
        if value is not None and not (name == "threshold" and bool((value < 0).all())):
            parts.extra[name] = value * factor


def _point(trainer: dict[str, Any]) -> str | None:
    """The submodule's name, as the library's own scripts write it: `resid_post_layer_8`."""
    name = trainer.get("submodule_name")
    return name if isinstance(name, str) and name else None


def write(coder: SparseCoder, folder: Path) -> None:
    """Into an empty folder, for `dictionary_learning.utils.load_dictionary`. CoderError where it has no such coder."""
    if coder.kind != "sae":
        raise CoderError(f"dictionary_learning has SAEs only, and this is a {coder.kind}")
    if coder.token_norm is not None:
        raise CoderError(f"dictionary_learning has no {coder.token_norm.kind} of its input, which this coder needs")
    name, tensors = _filed(coder)
    # In memory first: torch's own writer meets a full disk with an error of its own kind.
    file = io.BytesIO()
    torch.save({key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}, file)
    (folder / WEIGHTS).write_bytes(file.getbuffer())
    point, model = coder.reads[0].point, coder.metadata.model.get("spec")
    head, _, layer = point.partition(".")
    trainer: dict[str, Any] = {
        "dict_class": name,
        "activation_dim": coder.d_in,
        "dict_size": coder.d_sae,
        "layer": int(layer) if layer else None,
        "lm_name": model,
        "submodule_name": f"{head}_layer_{layer}"
        if head in ("resid_post", "resid_pre", "mlp_out", "attn_out")
        else point,
    }
    trainer |= {key: value for key, value in coder.architecture.file_entries().items() if key == "k"}
    buffer = {"ctx_len": coder.metadata.sequences.get("context")}
    (folder / CONFIG).write_text(json.dumps({"trainer": trainer, "buffer": buffer}, indent=2) + "\n")


def _filed(coder: SparseCoder) -> tuple[str, dict[str, Tensor]]:
    """The class, and its tensors."""
    name, subtracted = coder.architecture.name, coder.apply_b_dec_to_input
    moved = coder.W_enc_rows.cpu().double() @ coder.b_dec.cpu().double()
    linear = {"encoder.weight": coder.W_enc_rows, "decoder.weight": coder.W_dec.T}
    if name == "standard":
        if subtracted:
            return "AutoEncoder", linear | {"encoder.bias": coder.b_enc, "bias": coder.b_dec}
        return "AutoEncoderNew", linear | {"encoder.bias": coder.b_enc, "decoder.bias": coder.b_dec}
    # The other classes subtract b_dec, or do not; where the coder does otherwise, its biases take that up.
    added = torch.zeros_like(moved) if subtracted else moved
    if name == "gated":
        gain = coder.extra("r_mag").cpu().double().exp()
        return "GatedAutoEncoder", linear | {
            "decoder_bias": coder.b_dec,
            "r_mag": coder.extra("r_mag"),
            "gate_bias": (coder.b_enc.cpu().double() + added).float(),
            "mag_bias": (coder.extra("b_mag").cpu().double() + gain * added).float(),
        }
    if name == "topk":
        return "AutoEncoderTopK", linear | {
            "encoder.bias": (coder.b_enc.cpu().double() + added).float(),
            "b_dec": coder.b_dec,
            "k": torch.tensor(coder.architecture.file_entries()["k"], dtype=torch.int),
            "threshold": torch.tensor(-1.0),
        }
    if name == "jumprelu":
        return "JumpReluAutoEncoder", {
            "W_enc": coder.W_enc,
            "b_enc": (coder.b_enc.cpu().double() - (moved if subtracted else 0 * moved)).float(),
            "W_dec": coder.W_dec,
            "b_dec": coder.b_dec,
            "threshold": coder.extra("threshold"),
        }
    raise CoderError(f"dictionary_learning has standard, gated, topk and jumprelu SAEs, and this one is {name}")
