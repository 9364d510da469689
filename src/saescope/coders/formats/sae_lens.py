"""SAELens's folders, of version 6 and before: `cfg.json` and `sae_weights.safetensors`. Also the core of our own files.

Read as SAELens itself runs them, with these differences: run-time scaling of values by decoder norms is folded in, and so is
what a training run's own files keep apart (BatchTopK's threshold, a logarithm of thresholds).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.reading import Parts, Reading, flag, refuse_scale, whole_number
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights
from saescope.coders.token_norm import TokenNorm
from saescope.errors import CoderError
from saescope.lm import sae_lens_hook_name

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
# The version of the SAELens file format that is written.
FORMAT_VERSION = "6.54.12"
_KINDS = ("skip_transcoder", "transcoder", "crosscoder")
_SAES = ("standard", "gated", "topk", "abstopk", "jumprelu", "matching_pursuit")
_TRANSCODERS = ("standard", "jumprelu")
# How a training run's files call what is a threshold at inference.
_THRESHOLDED = {"batchtopk": "jumprelu", "matryoshka_batchtopk": "jumprelu"}
_NORMS = ("layer_norm", "constant_norm_rescale")


def detect(source: Source) -> bool:
    return source.has(CONFIG) or source.has(WEIGHTS)


def read(reading: Reading) -> SparseCoder:
    source = reading.source
    config = source.json(CONFIG)
    said = _said(config)
    parts, kind = parts_of(reading, config)
    if kind == "crosscoder":
        reading.refuse(f"is a {config.get('architecture')}, which is saescope's own; its saescope.json is missing")
    if said.get("hook_head_index") is not None and reading.given.reads is None:
        reading.ask("reads", f"a hook point: it reads head {said['hook_head_index']} alone")
    reading.model(said.get("model_name"))
    reading.sequences(context=said.get("context_size"), bos=said.get("prepend_bos"))
    reads = reading.read_point(said.get("hook_name") or said.get("hook_point"))
    if kind == "sae":
        return reading.sae(parts, reads)
    return reading.transcoder(parts, reads, reading.write_point(said.get("hook_name_out")))


def parts_of(reading: Reading, config: dict[str, Any]) -> tuple[Parts, str]:
    """The weights, and whether they are an `sae`, `transcoder`, `skip_transcoder` or `crosscoder`."""
    source = reading.source
    name, kind = split_architecture(config, source)
    file = source.weights(WEIGHTS)
    content = source.tensors(file)
    weights = Weights(source.label(file), content, config=CONFIG)
    weights.expect(d_in=config.get("d_in"), d_sae=config.get("d_sae"))
    out = "d_in" if kind == "sae" else "d_out"
    if kind != "sae":
        weights.expect(d_out=config.get("d_out"))
    apply_b_dec = flag(reading, CONFIG, config, "apply_b_dec_to_input", default=kind == "sae")
    if apply_b_dec and config.get("apply_b_dec_to_input") is None:
        reading.warn(f"{CONFIG} does not say whether b_dec is subtracted from the input; it is, as SAELens does then")
    parts = Parts(_THRESHOLDED.get(name, name), weights.take("W_dec", "d_sae", out), weights.take("b_dec", out))
    parts.apply_b_dec_to_input = apply_b_dec
    if name == "matching_pursuit":
        known = ("residual_threshold", "max_iterations", "stop_on_duplicate_support")
        parts.options = {key: config[key] for key in known if key in config}
        if not apply_b_dec:
            # Nothing is subtracted, and then nothing is added either.
            parts.b_dec = torch.zeros_like(parts.b_dec)
    else:
        parts.W_enc = weights.take("W_enc", "d_in", "d_sae")
        parts.b_enc = weights.take("b_gate" if name == "gated" else "b_enc", "d_sae")
    if name == "gated":
        parts.extra = {key: weights.take(key, "d_sae") for key in ("b_mag", "r_mag")}
    if kind == "skip_transcoder":
        parts.W_skip = weights.take("W_skip", "d_out", "d_in")
    if name in ("topk", "abstopk"):
        parts.options = {"k": _k(reading, config)}
    rescaled = flag(reading, CONFIG, config, "rescale_acts_by_decoder_norm")
    if parts.architecture == "jumprelu":
        parts.extra["threshold"] = _threshold(reading, name, weights, config)
    _finetuned(reading, parts, weights, content, config)
    weights.finish()
    _normalisation(reading, parts, config, rescaled)
    if rescaled and parts.W_enc is not None:
        parts.unit_rows()
    return parts, kind


def split_architecture(config: dict[str, Any], source: Source) -> tuple[str, str]:
    """Our architecture's name, and the kind of coder."""
    # Before version 6 a ReLU SAE needed no name.
    given = config.get("architecture", None if "metadata" in config else "standard")
    if not isinstance(given, str):
        raise CoderError(f"{source.label(CONFIG)} has architecture = {given!r}, which is no name; restore it")
    name, kind = given.removeprefix("saescope_"), "sae"
    for candidate in _KINDS:
        if name == candidate:
            name, kind = "standard", candidate
        elif name.endswith(f"_{candidate}"):
            name, kind = name.removesuffix(f"_{candidate}"), candidate
    if "metadata" not in config and name == "standard":
        name = _before_version_6(config, source)
    if name == "temporal":
        raise CoderError(
            f"{source.label(CONFIG)} has architecture 'temporal', which saescope does not read: its codes depend on the tokens "
            "before"
        )
    if name not in (*_SAES, *_THRESHOLDED):
        raise CoderError(
            f"{source.label(CONFIG)} has architecture {given!r}, which saescope does not read; "
            f"it reads {', '.join((*_SAES, *_THRESHOLDED))}"
        )
    return name, kind


def _before_version_6(config: dict[str, Any], source: Source) -> str:
    activation = config.get("activation_fn_str", config.get("activation_fn", "relu"))
    if activation in ("relu", "topk"):
        return {"relu": "standard", "topk": "topk"}[str(activation)]
    raise CoderError(f"{source.label(CONFIG)} has activation_fn_str {activation!r}; saescope reads relu and topk")


def _said(config: dict[str, Any]) -> dict[str, Any]:
    """What the configuration says of model and text: in `metadata` since version 6, beside the rest before."""
    metadata = config.get("metadata")
    return config | metadata if isinstance(metadata, dict) else config


def _k(reading: Reading, config: dict[str, Any]) -> int:
    kwargs = config.get("activation_fn_kwargs")
    k = config.get("k", kwargs.get("k") if isinstance(kwargs, dict) else None)
    return whole_number(reading, CONFIG, "k", k)


def _threshold(reading: Reading, name: str, weights: Weights, config: dict[str, Any]) -> Tensor:
    if name in _THRESHOLDED:
        value = weights.number("topk_threshold")
        reading.facts["threshold"] = value
        widths = config.get("matryoshka_widths")
        if isinstance(widths, list):
            reading.metadata.levels = [whole_number(reading, CONFIG, "matryoshka_widths", width) for width in widths]
        return torch.full((weights.sizes["d_sae"],), value)
    if "log_threshold" in weights and "threshold" not in weights:
        return weights.take("log_threshold", "d_sae").exp()
    return weights.take("threshold", "d_sae")


def _finetuned(
    reading: Reading, parts: Parts, weights: Weights, content: dict[str, Tensor], config: dict[str, Any]
) -> None:
    """The factor on each latent's value that old files apply in decoding."""
    names = [name for name in ("scaling_factor", "finetuning_scaling_factor") if name in content]
    if not names:
        return
    factor = weights.take(names[0], "d_sae")
    weights.ignore(names)
    if torch.allclose(factor, torch.ones_like(factor)):
        return
    if not flag(reading, CONFIG, config, "finetuning_scaling_factor"):
        reading.refuse(
            f"has a {names[0]} that is not one, and {CONFIG} does not say that it applies (finetuning_scaling_factor)"
        )
    parts.W_dec = parts.W_dec * factor[:, None]


def _normalisation(reading: Reading, parts: Parts, config: dict[str, Any], rescaled: bool) -> None:
    asked = config.get("normalize_activations", "none")
    # A flag, once; later nothing at all.
    if asked is None or asked is False:
        asked = "none"
    elif asked is True:
        asked = "expected_average_only_in"
    if isinstance(asked, str) and asked in _NORMS:
        parts.token_norm = TokenNorm(asked)
    elif asked == "expected_average_only_in":
        factor = reading.input_scale()
        if factor is None:
            factor = _kept_scale(reading.source)
        if factor is None:
            reading.ask("input_scale", "the number its activations are multiplied by (expected_average_only_in)")
        reading.facts["input_scale"] = factor
        if parts.architecture == "matching_pursuit":
            refuse_scale(factor)
            # Pursuit of a scaled token is the scaled pursuit, as long as rows keep their length: codes are in raw units then.
            parts.options["residual_threshold"] = parts.options.get("residual_threshold", 1e-2) / factor
            parts.b_dec = parts.b_dec / factor
            return
        if rescaled and "threshold" in parts.extra:
            # It is compared with values times decoder norms, which the factor divides.
            parts.extra["threshold"] = parts.extra["threshold"] / factor
        parts.scale_input(factor)
    elif asked != "none":
        reading.refuse(
            f"asks for normalize_activations={asked!r} at run time; fold it into the weights with the tool that wrote it"
        )


def _kept_scale(source: Source) -> float | None:
    """The factor that a training run of SAELens keeps beside its checkpoints."""
    if not source.has("activation_scaler.json"):
        return None
    value = source.json("activation_scaler.json").get("scaling_factor")
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def write(coder: SparseCoder, folder: Path) -> None:
    """Into an empty folder, for `sae_lens.SAE.load_from_disk`. CoderError where SAELens has no such coder."""
    name = architecture_of(coder)
    if name.startswith("saescope_"):
        raise CoderError(
            f"SAELens has no {name.removeprefix('saescope_')}; it has {', '.join(_SAES)} SAEs and ReLU and JumpReLU transcoders"
        )
    write_files(coder, folder)


def write_files(coder: SparseCoder, folder: Path) -> None:
    """`cfg.json` and `sae_weights.safetensors`, of a coder that SAELens has or of one that is ours alone."""
    save_file(tensors_of(coder), folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps(config_of(coder), indent=2) + "\n")


def tensors_of(coder: SparseCoder) -> dict[str, Tensor]:
    """Everything that a file holds, by its name there."""
    tensors = {"W_enc": coder.W_enc, "b_enc": coder.b_enc, "W_dec": coder.W_dec, "b_dec": coder.b_dec}
    for name in coder.architecture.not_filed:
        del tensors[name]
    if coder.W_skip is not None:
        tensors["W_skip"] = coder.W_skip
    tensors |= {name: coder.extra(name) for name in coder.architecture.extra_parameters()}
    named = {coder.architecture.file_names.get(name, name): tensor for name, tensor in tensors.items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in named.items()}


def architecture_of(coder: SparseCoder) -> str:
    """The name in `cfg.json`: SAELens's where it has the architecture, else ours, marked as such."""
    name, kind = coder.architecture.name, coder.kind
    if kind == "sae" and name in _SAES:
        return name
    if kind in ("transcoder", "skip_transcoder") and name in _TRANSCODERS and not coder.apply_b_dec_to_input:
        # SAELens's transcoders are rectified-linear, under no name of their own, or JumpReLU.
        return kind if name == "standard" else f"{name}_{kind}"
    return f"saescope_{name}_{kind}" if kind != "sae" else f"saescope_{name}"


def config_of(coder: SparseCoder) -> dict[str, Any]:
    """`cfg.json` of a coder on raw activations."""
    sequences = coder.metadata.sequences
    reads = coder.reads[0].point
    metadata: dict[str, Any] = {
        "sae_lens_version": FORMAT_VERSION,
        "sae_lens_training_version": None,
        "model_name": coder.metadata.model.get("spec"),
        "hook_name": _hook_name(coder),
        "hook_head_index": None,
        "context_size": sequences.get("context"),
        # Under "auto" the tokenizer decided, and the file leaves it unsaid.
        "prepend_bos": {"always": True, "never": False}.get(sequences.get("bos", "auto")),
        "seqpos_slice": [None],
        "model_from_pretrained_kwargs": {},
    }
    if coder.kind in ("transcoder", "skip_transcoder"):
        metadata["hook_name_out"] = sae_lens_hook_name(coder.writes[0].point) or coder.writes[0].point
    norm = coder.token_norm.kind if coder.token_norm is not None else "none"
    config = {
        "architecture": architecture_of(coder),
        "d_in": coder.d_in,
        "d_sae": coder.d_sae,
        "dtype": str(coder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": coder.apply_b_dec_to_input,
        "normalize_activations": norm if norm in _NORMS else "none",
        # SAELens then takes the point as its model gives it, [..., heads, d_head], and lays the heads side by side.
        "reshape_activations": "hook_z" if coder.kind == "sae" and reads.startswith("z.") else "none",
        "metadata": metadata,
    }
    if coder.kind != "sae":
        config["d_out"] = coder.d_out
    return config | coder.architecture.file_entries()


def _hook_name(coder: SparseCoder) -> str:
    point = coder.reads[0].point
    if coder.token_norm is not None and coder.token_norm.kind == "rms_norm":
        name, _, layer = point.partition(".")
        inside = {"resid_pre": "ln1", "resid_mid": "ln2"}.get(name)
        if inside is not None:
            return f"blocks.{layer}.{inside}.hook_normalized"
    return sae_lens_hook_name(point) or point
