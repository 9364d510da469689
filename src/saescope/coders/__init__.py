"""Sparse coders: the class, its architectures, codes, folding, storage, and a coder as an edit of a model run."""

import saescope.coders.architectures as _architectures  # registers them
from saescope.coders.architecture import (
    Architecture,
    Options,
    TrainingPass,
    architecture_names,
    architecture_type,
    make_architecture,
    register,
)
from saescope.coders.coder import SparseCoder
from saescope.coders.codes import Codes
from saescope.coders.folding import decoder_norms, fold, unfold
from saescope.coders.metadata import CoderMetadata, Slice
from saescope.coders.normalization import Normalization
from saescope.coders.splicing import splice
from saescope.coders.storage import load, load_reference, save

del _architectures

__all__ = [
    "Architecture",
    "CoderMetadata",
    "Codes",
    "Normalization",
    "Options",
    "Slice",
    "SparseCoder",
    "TrainingPass",
    "architecture_names",
    "architecture_type",
    "decoder_norms",
    "fold",
    "load",
    "load_reference",
    "make_architecture",
    "register",
    "save",
    "splice",
    "unfold",
]
