"""Hook points under the names other tools give them: asked for beside coders alone, so interp-engine is imported late."""

from __future__ import annotations

from saescope.lm.points import Point

# What a block adds to the stream. TransformerLens's names mean it wherever a model norms what its parts give, and where it
# does not, the two are one tensor; so they are never the raw output of the module.
_CONTRIBUTIONS = {"hook_mlp_out": "mlp_out_post", "hook_attn_out": "attn_out_post"}


def sae_lens_hook_name(point: str) -> str | None:
    """SAELens's (TransformerLens's) name for a hook point, e.g. `blocks.14.hook_resid_post`; None where it has none."""
    from interp_engine import UnmappedHook, point_to_tlens_hook

    try:
        parsed = Point.parse(point)
        return str(point_to_tlens_hook(parsed.name, parsed.layer))
    except (UnmappedHook, ValueError):
        return None


def point_of_hook_name(name: str) -> str | None:
    """The hook point that SAELens (TransformerLens) calls `name`, e.g. `resid_post.14`; None where there is none: before a
    norm's gain, among others."""
    from interp_engine import UnmappedHook, tlens_hook_to_point

    block, _, hook = name.rpartition(".")
    layer = block.removeprefix("blocks.")
    if hook in _CONTRIBUTIONS and layer.isdecimal():
        return f"{_CONTRIBUTIONS[hook]}.{int(layer)}"
    try:
        address = tlens_hook_to_point(name)
    except (UnmappedHook, ValueError):
        return None
    return str(Point(address.name, address.layer))
