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

from safetensors.torch import save_file
from torch import Tensor

from saescope.coders.coder import SparseCoder
from saescope.coders.formats import native, sae_lens
from saescope.coders.formats.source import LocalSource
from saescope.coders.formats.writing import written_whole

REFERENCE = "reference.safetensors"


def save(coder: SparseCoder, folder: str | Path, *, reference: dict[str, Tensor] | None = None) -> Path:
    """Write a coder that works on raw activations (see `fold`). `folder` must not exist or must hold a coder, which is
    replaced. `reference`: tensors measured in training that evaluation needs later. Returns the folder."""
    folder = Path(folder)
    with written_whole(folder, replaces=lambda there: (there / sae_lens.CONFIG).exists()) as temporary:
        native.write(coder, temporary)
        if reference is None and (folder / REFERENCE).exists():
            shutil.copy2(folder / REFERENCE, temporary / REFERENCE)
        elif reference:
            save_file({name: value.cpu().contiguous() for name, value in reference.items()}, temporary / REFERENCE)
    return folder


def load_reference(folder: str | Path) -> dict[str, Tensor]:
    """Means and principal components measured in training; empty when the coder came without."""
    path = Path(folder) / REFERENCE
    return LocalSource(str(folder), Path(folder)).tensors(REFERENCE) if path.is_file() else {}
