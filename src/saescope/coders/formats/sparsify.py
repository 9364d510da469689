"""EleutherAI's sparsify: `<run>/<hook point>/cfg.json` and `sae.safetensors`.

    f = the k largest of relu((x - b_dec) · W_encᵀ + b_enc),   x̂ = f · W_dec + b_dec (+ x · W_skipᵀ)

Transcoders do not subtract b_dec. `signed` (older files) keeps the k largest in magnitude. The folder's name is the hook point.
"""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import torch
from safetensors.torch import save_file

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.points import module_name
from saescope.coders.formats.reading import Parts, Reading, flag, whole_number
from saescope.coders.formats.source import Source
from saescope.coders.formats.weights import Weights
from saescope.errors import CoderError

CONFIG, WEIGHTS = "cfg.json", "sae.safetensors"
# What we add to the configuration, which sparsify passes over: the hook points, that its folder names would only hint at.
_OURS = "saescope"


def detect(source: Source) -> bool:
    return source.chosen == WEIGHTS or (source.chosen is None and source.has(WEIGHTS))


def read(reading: Reading) -> SparseCoder:
    source = reading.source
    config = source.json(CONFIG)
    activation = config.get("activation", "topk")
    if activation != "topk":
        reading.refuse(f"has activation {activation!r}; of sparsify's coders saescope reads topk")
    file = source.weights(WEIGHTS)
    weights = Weights(source.label(file), source.tensors(file), config=CONFIG)
    weights.expect(d_in=config.get("d_in"), d_sae=config.get("num_latents") or None)
    transcode = flag(reading, CONFIG, config, "transcode")
    out = "d_out" if transcode else "d_in"
    W_dec = weights.take("W_dec", "d_sae", out)
    parts = Parts(
        "abstopk" if flag(reading, CONFIG, config, "signed") else "topk",
        W_dec,
        weights.take("b_dec", out),
        weights.take("encoder.weight", "d_sae", "d_in").T,
        weights.take("encoder.bias", "d_sae"),
        options={"k": whole_number(reading, CONFIG, "k", config.get("k"))},
        apply_b_dec_to_input=not transcode,
    )
    skip = flag(reading, CONFIG, config, "skip_connection")
    if skip:
        parts.W_skip = weights.take("W_skip", out, "d_in")
    weights.finish()
    ours = config.get(_OURS)
    ours = ours if isinstance(ours, dict) else {}
    folder = _hook_folder(source)
    reading.sequences(bos=None)
    reads = reading.read_point(ours.get("reads") or _input_of(folder, transcode))
    if not transcode:
        return reading.sae(parts, reads)
    return reading.transcoder(parts, reads, reading.write_point(ours.get("writes") or folder))


def _hook_folder(source: Source) -> str | None:
    """The folder's name, which sparsify takes from the module."""
    trail = PurePosixPath(source.trail)
    name = (trail.parent if source.chosen is not None else trail).name
    return name or None


def _input_of(folder: str | None, transcode: bool) -> str | None:
    """A transcoder is named after the module whose output it predicts, and reads its input."""
    return f"{folder}.input" if folder and transcode else folder


def write(coder: SparseCoder, folder: Path) -> None:
    """Into an empty folder, for `sparsify.SparseCoder.load_from_disk`. CoderError where sparsify has no such coder."""
    if coder.architecture.name != "topk" or coder.kind == "crosscoder":
        raise CoderError(f"sparsify has TopK coders only, and this is a {coder.architecture.name} {coder.kind}")
    if coder.token_norm is not None:
        raise CoderError(f"sparsify has no {coder.token_norm.kind} of its input, which this coder needs")
    if coder.d_in != coder.d_out:
        raise CoderError(
            f"sparsify's coders write as many dimensions as they read, and this one {coder.d_in} and {coder.d_out}"
        )
    transcode = coder.kind != "sae"
    b_enc = coder.b_enc.detach().cpu().double()
    if transcode == coder.apply_b_dec_to_input:
        # sparsify subtracts b_dec in SAEs and not in transcoders; where the coder does otherwise, its bias takes that up.
        moved = coder.W_enc_rows.detach().cpu().double() @ coder.b_dec.detach().cpu().double()
        b_enc = b_enc - moved if coder.apply_b_dec_to_input else b_enc + moved
    tensors = {
        "encoder.weight": coder.W_enc_rows,
        "encoder.bias": b_enc.to(torch.float32),
        "W_dec": coder.W_dec,
        "b_dec": coder.b_dec,
    }
    if coder.W_skip is not None:
        tensors["W_skip"] = coder.W_skip
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS)
    reads, writes = coder.reads[0].point, coder.writes[0].point
    config = {
        "activation": "topk",
        "expansion_factor": max(1, coder.d_sae // coder.d_in),
        "normalize_decoder": False,
        "num_latents": coder.d_sae,
        "k": coder.architecture.file_entries()["k"],
        "multi_topk": False,
        "skip_connection": coder.W_skip is not None,
        "transcode": transcode,
        "d_in": coder.d_in,
        _OURS: {"reads": reads, "writes": writes, "module": module_name(writes)},
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")
