"""Coders on disk: a folder that SAELens reads with the same numbers, plus what SAELens has no place for.

    cfg.json                  SAELens v6 configuration
    sae_weights.safetensors   W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_out], b_dec, and the architecture's own
    saescope.json             our points, architecture as trained, provenance, history (`CoderMetadata`)
    reference.safetensors     training means and principal components, for ablations and controls (optional)

Nothing is ever unpickled. A folder is written under a temporary name and renamed when whole.
"""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from saescope.coders.architecture import architecture_names, make_architecture
from saescope.coders.coder import SparseCoder
from saescope.coders.folding import rescale_to_unit_rows
from saescope.coders.metadata import CoderMetadata, Slice
from saescope.errors import CoderError, OccupiedError
from saescope.lm import sae_lens_hook_name

CONFIG, WEIGHTS, OURS, REFERENCE = "cfg.json", "sae_weights.safetensors", "saescope.json", "reference.safetensors"
# The version of the SAELens file format that is written.
_SAE_LENS_FORMAT = "6.54.12"


def save(coder: SparseCoder, folder: str | Path, *, reference: dict[str, Tensor] | None = None) -> Path:
    """Write a coder that works on raw activations (see `fold`). `folder` must not exist or must hold a coder, which is
    replaced. `reference`: tensors measured in training that evaluation needs later. Returns the folder."""
    folder = Path(folder)
    if folder.exists() and not (folder / CONFIG).exists() and any(folder.iterdir()):
        raise OccupiedError(f"{folder} exists and is not a coder; choose another folder to save to")
    temporary = folder.with_name(f".{folder.name}.writing")
    if temporary.exists():
        shutil.rmtree(temporary)
    try:
        temporary.mkdir(parents=True)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in _tensors(coder).items()}
        save_file(weights, temporary / WEIGHTS)
        (temporary / CONFIG).write_text(json.dumps(_config(coder), indent=2) + "\n")
        (temporary / OURS).write_text(json.dumps(_ours(coder), indent=2) + "\n")
        if reference is None and (folder / REFERENCE).exists():
            shutil.copy2(folder / REFERENCE, temporary / REFERENCE)
        elif reference:
            save_file({name: value.cpu().contiguous() for name, value in reference.items()}, temporary / REFERENCE)
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise CoderError(f"cannot save the coder to {folder}: {error}; nothing was left there") from error
    return folder


def load(folder: str | Path, *, device: torch.device | str = "cpu") -> SparseCoder:
    """The coder saved in `folder`, in float32, working on raw activations.

    Raises `CoderError`, in one line, when a file is missing, damaged or of another shape than `cfg.json` says.
    """
    folder = Path(folder)
    if not folder.exists():
        raise CoderError(f"no coder at {folder}: there is no such folder")
    config = _read_json(folder / CONFIG)
    ours = _read_json(folder / OURS) if (folder / OURS).exists() else {}
    try:
        metadata = CoderMetadata.model_validate(ours.get("metadata", {}))
        reads = [Slice.model_validate(part) for part in ours.get("reads", [])] or [_foreign_slice(config, "d_in")]
        writes = [Slice.model_validate(part) for part in ours.get("writes", [])] or [_foreign_slice(config, "d_out")]
    except ValidationError as error:
        raise CoderError(f"{folder / OURS} is damaged: {_first(error)}; restore it or delete it") from None
    kind, options = _split_architecture(config, folder)
    try:
        d_sae = int(config["d_sae"])
        architecture = make_architecture(kind, d_sae, options)
        coder = SparseCoder(
            architecture,
            reads,
            writes,
            skip=config["architecture"].endswith("skip_transcoder"),
            apply_b_dec_to_input=bool(config.get("apply_b_dec_to_input", reads == writes)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CoderError(f"{folder / CONFIG} is not a coder's configuration: {type(error).__name__} {error}") from None
    _copy_weights(coder, _read_tensors(folder / WEIGHTS), folder / WEIGHTS)
    if config.get("rescale_acts_by_decoder_norm"):
        rescale_to_unit_rows(coder)
    metadata.trained_as = metadata.trained_as or kind
    coder.metadata = metadata
    return coder.to(device).eval().requires_grad_(False)


def load_reference(folder: str | Path) -> dict[str, Tensor]:
    """Means and principal components measured in training; empty when the coder came without."""
    path = Path(folder) / REFERENCE
    return _read_tensors(path) if path.exists() else {}


def _tensors(coder: SparseCoder) -> dict[str, Tensor]:
    """Everything that a file holds, by its name there."""
    tensors = {"W_enc": coder.W_enc, "b_enc": coder.b_enc, "W_dec": coder.W_dec, "b_dec": coder.b_dec}
    if coder.W_skip is not None:
        tensors["W_skip"] = coder.W_skip
    tensors |= {name: coder.extra(name) for name in coder.architecture.extra_parameters()}
    return {coder.architecture.file_names.get(name, name): tensor for name, tensor in tensors.items()}


def _config(coder: SparseCoder) -> dict[str, Any]:
    sequences = coder.metadata.sequences
    reads = coder.reads[0].point
    name = coder.architecture.name
    architecture = _file_architecture(name, coder.kind)
    metadata: dict[str, Any] = {
        "sae_lens_version": _SAE_LENS_FORMAT,
        "sae_lens_training_version": None,
        "model_name": coder.metadata.model.get("spec"),
        "hook_name": sae_lens_hook_name(reads) or reads,
        "hook_head_index": None,
        "context_size": sequences.get("context"),
        # Under "auto" the tokenizer decided, and the file leaves it unsaid.
        "prepend_bos": {"always": True, "never": False}.get(sequences.get("bos", "auto")),
        "seqpos_slice": [None],
        "model_from_pretrained_kwargs": {},
    }
    if coder.kind in ("transcoder", "skip_transcoder"):
        metadata["hook_name_out"] = sae_lens_hook_name(coder.writes[0].point) or coder.writes[0].point
    config = {
        "architecture": architecture,
        "d_in": coder.d_in,
        "d_sae": coder.d_sae,
        "dtype": str(coder.dtype).removeprefix("torch."),
        "device": "cpu",
        "apply_b_dec_to_input": coder.apply_b_dec_to_input,
        "normalize_activations": "none",
        # SAELens then takes the point as its model gives it, [..., heads, d_head], and lays the heads side by side.
        "reshape_activations": "hook_z" if coder.kind == "sae" and reads.startswith("z.") else "none",
        "metadata": metadata,
    }
    if coder.kind != "sae":
        config["d_out"] = coder.d_out
    return config | coder.architecture.file_entries()


def _file_architecture(name: str, kind: str) -> str:
    """The name in `cfg.json`: SAELens's where it has the architecture, else ours, marked as such."""
    if kind == "sae":
        return name
    if kind in ("transcoder", "skip_transcoder"):
        # SAELens's transcoders are rectified-linear, under no name of their own, or JumpReLU.
        if name == "standard":
            return kind
        if name == "jumprelu":
            return f"{name}_{kind}"
    return f"saescope_{name}_{kind}"


def _ours(coder: SparseCoder) -> dict[str, Any]:
    return {
        "reads": [part.model_dump() for part in coder.reads],
        "writes": [part.model_dump() for part in coder.writes],
        "metadata": coder.metadata.model_dump(),
    }


def _split_architecture(config: dict[str, Any], folder: Path) -> tuple[str, dict[str, Any]]:
    """Our architecture's name, and its options as `cfg.json` has them."""
    given = str(config.get("architecture", ""))
    name = given.removeprefix("saescope_")
    for kind in ("skip_transcoder", "transcoder", "crosscoder"):
        if name == kind:
            name = "standard"
        name = name.removesuffix(f"_{kind}")
    if name not in architecture_names():
        raise CoderError(
            f"{folder / CONFIG} has architecture {given!r}, which saescope does not read; "
            f"it reads {', '.join(architecture_names())}"
        )
    if config.get("normalize_activations", "none") != "none":
        raise CoderError(
            f"{folder / CONFIG} asks for normalize_activations={config['normalize_activations']!r} at run time; "
            "fold it into the weights with the tool that wrote it"
        )
    common = {"architecture", "d_in", "d_sae", "d_out", "dtype", "device", "metadata"}
    common |= {"apply_b_dec_to_input", "normalize_activations", "reshape_activations", "rescale_acts_by_decoder_norm"}
    return name, {key: value for key, value in config.items() if key not in common}


def _foreign_slice(config: dict[str, Any], width: str) -> Slice:
    metadata = config.get("metadata", {})
    name = metadata.get("hook_name_out") if width == "d_out" else None
    return Slice(point=name or metadata.get("hook_name") or "unknown", width=config.get(width, config.get("d_in", 0)))


def _copy_weights(coder: SparseCoder, tensors: dict[str, Tensor], path: Path) -> None:
    expected: dict[str, Tensor] = _tensors(coder)
    for name, target in expected.items():
        if name not in tensors:
            raise CoderError(f"{path} has no tensor {name!r}; it is incomplete or of another architecture")
        given = tensors[name]
        if given.shape != target.shape:
            raise CoderError(f"{path}: {name} is {list(given.shape)}, cfg.json makes it {list(target.shape)}")
        if not torch.isfinite(given).all():
            raise CoderError(f"{path}: {name} contains NaN or infinity; the file is damaged or training diverged")
        with torch.no_grad():
            target.copy_(given)
    unknown = sorted(set(tensors) - set(expected))
    if unknown:
        raise CoderError(f"{path} has unknown tensors {', '.join(unknown)}; cfg.json does not match it")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CoderError(f"no coder at {path.parent}: {path.name} is missing") from None
    except (OSError, ValueError) as error:
        raise CoderError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise CoderError(f"{path} holds a {type(content).__name__}, not an object; it is not a coder's")
    return content


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise CoderError(f"no coder at {path.parent}: {path.name} is missing") from None
    except (SafetensorError, OSError, struct.error, ValueError) as error:
        raise CoderError(f"{path} is damaged or not a safetensors file: {error}") from None


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
