"""Hook points under the names other tools give them."""

from __future__ import annotations

from interp_engine import UnmappedHook, point_to_tlens_hook

from saescope.lm.points import Point


def sae_lens_hook_name(point: str) -> str | None:
    """SAELens's (TransformerLens's) name for a hook point, e.g. `blocks.14.hook_resid_post`; None where it has none."""
    try:
        parsed = Point.parse(point)
        return str(point_to_tlens_hook(parsed.name, parsed.layer))
    except (UnmappedHook, ValueError):
        return None
