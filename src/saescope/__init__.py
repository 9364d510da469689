"""saescope: a language model's activations turned into named, measured, steerable features with sparse autoencoders.

import saescope
lm = saescope.LanguageModel.load("smollm2")
coder = saescope.load("run/coder")
codes = coder.encode(x)          # x [tokens, d_in] raw activations
x_hat = coder.decode(codes)      # [tokens, d_out]
"""

from __future__ import annotations

import importlib
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saescope.activations import KeptRule as KeptRule
    from saescope.activations import ModelStream as ModelStream
    from saescope.activations import Store as Store
    from saescope.activations import StoreStream as StoreStream
    from saescope.activations import harvest as harvest
    from saescope.coders import Codes as Codes
    from saescope.coders import SparseCoder as SparseCoder
    from saescope.coders import export as export
    from saescope.coders import load as load
    from saescope.coders import save as save
    from saescope.coders import splice as splice
    from saescope.errors import SaescopeError as SaescopeError
    from saescope.evaluation import evaluate as evaluate
    from saescope.features import FeatureIndex as FeatureIndex
    from saescope.features import build_index as build_index
    from saescope.features import top_contexts as top_contexts
    from saescope.lm import Edit as Edit
    from saescope.lm import LanguageModel as LanguageModel
    from saescope.reports import write_report as write_report
    from saescope.text import Corpus as Corpus
    from saescope.text import SequenceOptions as SequenceOptions
    from saescope.training import CoderConfig as CoderConfig
    from saescope.training import TrainConfig as TrainConfig
    from saescope.training import train as train

# Read once, the first by torch's first allocation, the second when its threads are loaded; whoever set them keeps their way.
# Large pages: a step's fresh memory costs a fault a page, and there are thousands. Passive waiting: torch's idle threads would
# spin on the cores that the kernels' own threads compute on.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
# Apple's GPUs lack some of torch's operations, more of them in older versions: those run on the processor.
if "torch" not in sys.modules:
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")

# Where each public name lives. They are imported when first used: `saescope --help` should not wait for torch.
_HOME = {
    "Codes": "coders",
    "CoderConfig": "training",
    "Corpus": "text",
    "Edit": "lm",
    "FeatureIndex": "features",
    "KeptRule": "activations",
    "LanguageModel": "lm",
    "ModelStream": "activations",
    "SaescopeError": "errors",
    "SequenceOptions": "text",
    "SparseCoder": "coders",
    "Store": "activations",
    "StoreStream": "activations",
    "TrainConfig": "training",
    "build_index": "features",
    "evaluate": "evaluation",
    "export": "coders",
    "harvest": "activations",
    "load": "coders",
    "save": "coders",
    "splice": "coders",
    "top_contexts": "features",
    "train": "training",
    "write_report": "reports",
}

__all__ = [*sorted(_HOME), "__version__"]

try:
    __version__ = version("saescope")
except PackageNotFoundError:  # a source tree that is not installed
    __version__ = "0+source"


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'saescope' has no attribute {name!r}")
    return getattr(importlib.import_module(f"saescope.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
