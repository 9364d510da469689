"""What the weights say of each feature, and its form: arrays of an index whose codes are already there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saescope.coders import SparseCoder
from saescope.features.families import families, latent_levels, splits
from saescope.features.index.arrays import array_path, read_array, write_array
from saescope.features.index.manifest import IndexManifest
from saescope.features.kinds import FORMS, IndexedFirings, firing_properties, token_groups
from saescope.features.weights import (
    MAX_LATENTS,
    decoder_norms,
    layout,
    logit_lens,
    nearest_decoder,
    nearest_encoder,
    neuron_alignment,
    why_no_lens,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from saescope.lm import LanguageModel

OUTPUT_TOKENS, NO_MODEL = "output tokens", "the coder's model was not at hand"
_LENS = ("lens_top", "lens_top_logits", "lens_bottom", "lens_bottom_logits", "lens_peak")
_NEAREST = tuple(f"nearest_{which}{suffix}" for which in ("decoder", "encoder") for suffix in ("", "_cosine"))
_NEURONS = ("neurons", "neuron_weights", "neuron_shares")
_SPLITS = ("split_coarse", "split_fine", "split_share", "split_cosine")
FACTS = (*_LENS, "decoder_norm", *_NEURONS, *_NEAREST, "map", "form", "level", "family", *_SPLITS)
"""The arrays that are written here, and written again when the coder's model comes later."""


def write_weights(folder: Path, manifest: IndexManifest, coder: SparseCoder, lm: LanguageModel | None) -> None:
    """Write output tokens, neighbours, neurons, norms and the map; what there cannot be is said in `manifest.skipped`."""
    reason = NO_MODEL if lm is None else why_no_lens(coder, lm)
    lens = None if lm is None or reason else logit_lens(coder, lm)
    if lens is None:
        manifest.skipped[OUTPUT_TOKENS] = reason or "the model has no lens"
        _forget(folder, *_LENS)
    else:
        outputs = (lens.top, lens.top_logits, lens.bottom, lens.bottom_logits, lens.peak)
        for name, array in zip(_LENS, outputs, strict=True):
            write_array(folder, name, array)
    write_array(folder, "decoder_norm", decoder_norms(coder))
    neurons = neuron_alignment(coder)
    for name, values in zip(_NEURONS, (neurons.index, neurons.weight, neurons.share), strict=True):
        write_array(folder, name, values)
    if coder.d_sae > MAX_LATENTS:
        manifest.skipped["nearest features"] = f"{coder.d_sae:,} latents are too many to compare each with each"
        _forget(folder, *_NEAREST)
        write_array(folder, "map", layout(coder.W_dec, None))
        return
    by_decoder, by_encoder = nearest_decoder(coder), nearest_encoder(coder)
    arrays = (by_decoder.index, by_decoder.cosine, by_encoder.index, by_encoder.cosine)
    for name, array in zip(_NEAREST, arrays, strict=True):
        write_array(folder, name, array)
    write_array(folder, "map", layout(coder.W_dec, by_decoder))


def write_forms(folder: Path, manifest: IndexManifest, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write each feature's form, an index into `manifest.names["forms"]`."""
    has_lens = OUTPUT_TOKENS not in manifest.skipped
    given = {
        name: read_array(folder, name)
        for name in (
            "tokens",
            "document",
            "kept",
            "sequence_offsets",
            "feature_offsets",
            "feature_positions",
            "feature_values",
            "position_profile",
            "position_base",
            *(("lens_top", "lens_peak") if has_lens else ()),
        )
    }
    write_array(folder, "form", firing_properties(IndexedFirings(**given), token_groups(tokenizer)).forms())
    manifest.names["forms"] = list(FORMS)


def write_families(folder: Path, manifest: IndexManifest, coder: SparseCoder) -> None:
    """Write each feature's level and family, and of a Matryoshka coder which finer features a coarse one splits into: pairs
    `split_coarse`, `split_fine` with their `split_share` and `split_cosine`."""

    def read(name: str) -> NDArray[Any]:
        return np.asarray(read_array(folder, name))

    coactive = read("coactive")
    if "nearest features" in manifest.skipped:
        nearest, cosine = np.full((coder.d_sae, 1), -1, np.int32), np.zeros((coder.d_sae, 1), np.float32)
    else:
        nearest, cosine = read("nearest_decoder"), read("nearest_decoder_cosine")
    write_array(folder, "family", families(coactive, read("coactive_phi"), nearest, cosine))
    level = latent_levels(manifest.coder.levels, coder.d_sae)
    write_array(folder, "level", level)
    found = splits(level, coactive, read("coactive_count"), read("count"), manifest.counts.tokens, coder.W_dec)
    for name, values in zip(_SPLITS, (found.coarse, found.fine, found.share, found.cosine), strict=True):
        write_array(folder, name, values)


def _forget(folder: Path, *names: str) -> None:
    """An earlier, interrupted build may have had what this one has not."""
    for name in names:
        array_path(folder, name).unlink(missing_ok=True)
