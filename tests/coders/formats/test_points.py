"""Names of other tools, as ours."""

from __future__ import annotations

import pytest

from saescope.coders.formats.points import is_ours, module_name, our_point, place_of
from saescope.coders.token_norm import TokenNorm
from saescope.lm import sae_lens_hook_name


@pytest.mark.parametrize(
    ("name", "point"),
    [
        ("blocks.14.hook_resid_post", "resid_post.14"),
        ("blocks.14.hook_resid_pre", "resid_pre.14"),
        ("blocks.3.attn.hook_z", "z.3"),
        ("blocks.3.hook_mlp_out", "mlp_out_post.3"),
        ("blocks.3.mlp.hook_out", "mlp_out.3"),
        ("blocks.3.mlp.hook_in", "mlp_in.3"),
        ("model.layers.14", "resid_post.14"),
        ("model.layers.14.output", "resid_post.14"),
        ("model.language_model.layers.14.output", "resid_post.14"),
        ("layers.14.mlp", "mlp_out.14"),
        ("layers.14.mlp.input", "mlp_in.14"),
        ("transformer.h.5", "resid_post.5"),
        ("gpt_neox.layers.5.attention", "attn_out.5"),
        ("model.layers.2.self_attn.o_proj.input", "z.2"),
        ("embed_tokens", "embeddings"),
        ("resid_post_layer_8", "resid_post.8"),
        ("resid_post.8", "resid_post.8"),
    ],
)
def test_known_names(name: str, point: str) -> None:
    assert our_point(name) == point
    assert is_ours(point)


@pytest.mark.parametrize(
    "name", ["", "blocks.x.hook_resid_post", "blocks.3.hook_mlp_in", "layers", "resid_post", "attn.3.foo"]
)
def test_unknown_names_are_none(name: str) -> None:
    assert place_of(name) is None


def test_inside_a_norm_is_no_point_but_a_place() -> None:
    place = place_of("blocks.3.ln2.hook_normalized")
    assert place is not None
    assert (place.point, place.token_norm) == ("resid_mid.3", TokenNorm("rms_norm"))
    assert our_point("blocks.3.ln2.hook_normalized") is None


@pytest.mark.parametrize(
    "point", ["resid_pre", "resid_mid", "resid_post", "mlp_in", "mlp_out", "mlp_out_post", "attn_out", "z"]
)
def test_names_given_out_come_back(point: str) -> None:
    assert our_point(str(sae_lens_hook_name(f"{point}.4"))) == f"{point}.4"


def test_module_names_come_back() -> None:
    for point in ("resid_post.4", "mlp_out.4", "attn_out.4"):
        assert our_point(str(module_name(point))) == point
