"""Language models: where they come from, runs that capture and edit, generation with edits.

The only room that knows `interp-engine`; everything above it speaks in hook point names such as `resid_post.14`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from saescope.lm.devices import exact_float, has_native_bf16, resolve_device, resolve_dtype
from saescope.lm.edits import Change, Edit, Positions, Run
from saescope.lm.foreign_names import point_of_hook_name, sae_lens_hook_name
from saescope.lm.generation import Generation
from saescope.lm.output_lens import OutputLens
from saescope.lm.point_patterns import Expression, PointNames, condensed
from saescope.lm.points import Point, common_layer

if TYPE_CHECKING:
    from saescope.lm.model import LanguageModel

__all__ = [
    "Change",
    "Edit",
    "Expression",
    "Generation",
    "LanguageModel",
    "OutputLens",
    "Point",
    "PointNames",
    "Positions",
    "Run",
    "common_layer",
    "condensed",
    "exact_float",
    "has_native_bf16",
    "point_of_hook_name",
    "resolve_device",
    "resolve_dtype",
    "sae_lens_hook_name",
]


def __getattr__(name: str) -> Any:
    # With interp-engine and transformers, which take as long to import as half of torch: coders and stores need neither.
    if name != "LanguageModel":
        raise AttributeError(f"module 'saescope.lm' has no attribute {name!r}")
    from saescope.lm.model import LanguageModel

    return LanguageModel
