"""Coders on disk: a folder that SAELens reads with the same numbers, plus what SAELens has no place for.

    cfg.json                  SAELens v6 configuration
    sae_weights.safetensors   W_enc [d_in, d_sae], b_enc, W_dec [d_sae, d_out], b_dec, and the architecture's own
    saescope.json             our points, architecture as trained, provenance, history (`CoderMetadata`)
    reference.safetensors     training means and principal components, for ablations and controls (optional)

A folder is written under a temporary name and renamed when whole. `formats` reads them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.coders.formats import native, sae_lens
from saescope.coders.formats.loading import open_source
from saescope.coders.formats.writing import written_whole


def save(coder: SparseCoder, folder: str | Path, *, reference: dict[str, Tensor] | None = None) -> Path:
    """Write a coder that works on raw activations (see `fold`). `folder` must not exist or must hold a coder, which is
    replaced. `reference`: tensors measured in training that evaluation needs later; by default those of the coder that is
    replaced, if it is of the same points and text. Returns the folder."""
    folder = Path(folder)
    with written_whole(folder, replaces=lambda there: (there / sae_lens.CONFIG).exists()) as temporary:
        native.write(coder, temporary)
        if reference is None and (folder / native.REFERENCE).exists():
            # Another coder's may have come in its place.
            if native.same_training(coder, open_source(folder)):
                shutil.copy2(folder / native.REFERENCE, temporary / native.REFERENCE)
        elif reference:
            native.write_reference(reference, temporary)
    return folder


def load_reference(source: str | Path) -> dict[str, Tensor]:
    """Means and principal components measured in training, of what `load` takes; empty when the coder came without."""
    found = open_source(source)
    return found.tensors(native.REFERENCE) if found.has(native.REFERENCE) else {}
