"""Sparse coders: the class, its architectures, codes, folding, files (ours and others'), a coder as an edit of a model run."""

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
from saescope.coders.formats import FORMATS, Format, export, load
from saescope.coders.metadata import CoderMetadata, Slice
from saescope.coders.normalization import Normalization
from saescope.coders.splicing import put, splice
from saescope.coders.storage import load_reference, save
from saescope.coders.token_norm import TokenNorm

del _architectures

__all__ = [
    "FORMATS",
    "Architecture",
    "CoderMetadata",
    "Codes",
    "Format",
    "Normalization",
    "Options",
    "Slice",
    "SparseCoder",
    "TokenNorm",
    "TrainingPass",
    "architecture_names",
    "architecture_type",
    "decoder_norms",
    "export",
    "fold",
    "load",
    "load_reference",
    "make_architecture",
    "put",
    "register",
    "save",
    "splice",
    "unfold",
]
