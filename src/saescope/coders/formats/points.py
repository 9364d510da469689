"""Names that other tools give to hook points, as ours.

One table of patterns; the layer is what each pattern captures. TransformerLens's names (SAELens's, Llama Scope's,
circuit-tracer's) are interp-engine's knowledge and come from `lm`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from saescope.coders.token_norm import TokenNorm
from saescope.lm import Point, point_of_hook_name

# Names of modules and folders. A module's name alone means its output.
_LAYERS = r"(?:(?:model|transformer|gpt_neox|language_model|decoder)\.)*(?:layers|h|blocks)[._](\d+)"
PATTERNS: tuple[tuple[str, str], ...] = (
    (rf"{_LAYERS}(?:\.output)?", "resid_post"),
    (rf"{_LAYERS}\.input", "resid_pre"),
    (rf"{_LAYERS}\.(?:mlp|feed_forward|block_sparse_moe)(?:\.output)?", "mlp_out"),
    (rf"{_LAYERS}\.(?:mlp|feed_forward)\.input", "mlp_in"),
    (rf"{_LAYERS}\.(?:self_attn|attention|attn)(?:\.output)?", "attn_out"),
    (rf"{_LAYERS}\.(?:self_attn\.o_proj|attn\.c_proj|attention\.dense)\.input", "z"),
    # Gemma's norms before and after its MLP: what the MLP takes, and what the stream gets.
    (rf"{_LAYERS}\.pre_feedforward_layernorm(?:\.output)?", "mlp_in"),
    (rf"{_LAYERS}\.post_feedforward_layernorm(?:\.output)?", "mlp_out_post"),
    (r"(?:model\.|transformer\.)?(?:embed_tokens|wte|embed_in)(?:\.output)?", "embeddings"),
    # dictionary_learning's submodule names.
    (r"resid_post_layer_(\d+)", "resid_post"),
    (r"resid_pre_layer_(\d+)", "resid_pre"),
    (r"mlp_out_layer_(\d+)", "mlp_out"),
    (r"attn_out_layer_(\d+)", "attn_out"),
    # Folders of OpenAI's GPT-2 autoencoders: `resid_post_mlp_v5_32k/autoencoders/8.pt`.
    (r"resid_post_mlp(?:_v\d+\w*)?/autoencoders/(\d+)\.pt", "resid_post"),
    (r"resid_post_attn(?:_v\d+\w*)?/autoencoders/(\d+)\.pt", "resid_mid"),
    (r"resid_delta_mlp(?:_v\d+\w*)?/autoencoders/(\d+)\.pt", "mlp_out_post"),
    (r"resid_delta_attn(?:_v\d+\w*)?/autoencoders/(\d+)\.pt", "attn_out_post"),
    (r"mlp_post_act(?:_v\d+\w*)?/autoencoders/(\d+)\.pt", "mlp_act"),
)
_BEFORE_GAIN = re.compile(r"blocks\.(\d+)\.ln([12])\.hook_normalized")
_COMPILED = tuple((re.compile(pattern), name) for pattern, name in PATTERNS)


@dataclass(frozen=True)
class Place:
    """A hook point, and the normalisation of its tokens that a coder's name for it implies."""

    point: str
    token_norm: TokenNorm | None = None


def our_point(name: str) -> str | None:
    """The hook point that any of these tools calls `name`: `blocks.14.hook_resid_post`, `model.layers.14`, `layers.14.mlp`,
    `resid_post_layer_14` …; one of ours is itself. None for a name that is not known, or not a point of ours."""
    place = place_of(name)
    return place.point if place is not None and place.token_norm is None else None


def place_of(name: str) -> Place | None:
    """As `our_point`, and `blocks.L.ln2.hook_normalized`, which is `resid_mid.L` under the model's root mean square norm before
    its gain (Gemma Scope's, Llama Scope's and circuit-tracer's transcoders read it); `ln1` is `resid_pre.L`."""
    before_gain = _BEFORE_GAIN.fullmatch(name)
    if before_gain is not None:
        point = {"1": "resid_pre", "2": "resid_mid"}[before_gain[2]]
        return Place(f"{point}.{int(before_gain[1])}", TokenNorm("rms_norm"))
    if name.startswith(("blocks.", "unembed.")) and (known := point_of_hook_name(name)) is not None:
        return Place(known)
    for pattern, point in _COMPILED:
        if (found := pattern.fullmatch(name)) is not None:
            return Place(f"{point}.{int(found[1])}" if found.groups() else point)
    if is_ours(name):
        return Place(name)
    return None


# The points that a coder may read or write, by their names alone; which of them a model has, its own table says.
_RESIDUAL = {"resid_pre", "resid_mid", "resid_post", "embeddings", "final_norm"}
_ATTENTION = {"attn_in", "attn_out", "attn_out_post", "z", "value"}
_MLP = {"mlp_in", "mlp_pre", "mlp_pre_linear", "mlp_act", "mlp_out", "mlp_out_post"}
_OURS = _RESIDUAL | _ATTENTION | _MLP


def is_ours(name: str) -> bool:
    """Whether `name` is written as we write a hook point."""
    head, _, layer = name.partition(".")
    return head in _OURS and (layer.isdecimal() if layer else head in ("embeddings", "final_norm"))


def module_name(point: str) -> str | None:
    """The module whose output a hook point is, as sparsify names it: `layers.14`, `layers.14.mlp`; None where there is none."""
    parsed = Point.parse(point)
    suffix = {"resid_post": "", "mlp_out": ".mlp", "mlp_in": ".mlp", "attn_out": ".self_attn"}.get(parsed.name)
    return None if suffix is None or parsed.layer is None else f"layers.{parsed.layer}{suffix}"


def in_trail(trail: str, pattern: str) -> re.Match[str] | None:
    """The last place in a source's trail that `pattern` matches as whole path parts."""
    found = list(re.finditer(rf"(?:^|/){pattern}(?=/|$)", trail))
    return found[-1] if found else None
