"""Coders written for other tools: what comes back is the same, byte by byte or number by number; what has no place is refused.

Whether the other tools read the files alike is asked of them by `benchmarks/formats_agreement.py`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.coders.conftest import small_coder
from tests.coders.formats.test_golden import FIXTURES

from saescope.coders import FORMATS, SparseCoder, TokenNorm, export, load
from saescope.errors import CoderError, OccupiedError, UsageError

pytestmark = pytest.mark.filterwarnings("ignore::saescope.errors.ForeignCoderWarning")
# What our files cannot hold apart: run-time scaling by decoder norms, and training's own form.
REWRITTEN = {
    "topk_rescaled",
    "abstopk_rescaled",
    "training_batchtopk",
    "training_batchtopk_rescaled",
    "training_jumprelu",
}
SAME = [
    path.name
    for path in sorted((FIXTURES / "sae_lens").iterdir())
    if path.is_dir() and path.name not in REWRITTEN and not path.name.startswith(("old_", "scaled_"))
]
X = torch.randn(16, 12, generator=torch.Generator().manual_seed(4)) * 2


def same_numbers(one: SparseCoder, other: SparseCoder, tolerance: float = 2e-5) -> None:
    one, other = one.requires_grad_(False), other.requires_grad_(False)
    a, b = one.encode(X[:, : one.d_in]), other.encode(X[:, : one.d_in])
    torch.testing.assert_close(a.dense(), b.dense(), rtol=0, atol=tolerance * float(a.values.abs().max()))
    torch.testing.assert_close(one(X[:, : one.d_in]), other(X[:, : one.d_in]), rtol=0, atol=tolerance * 10)


@pytest.mark.parametrize("name", ["saescope", "sae_lens", "dictionary_learning", "sparsify"])
@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"input_scale": 0.05}, "input_scale"),
        ({"layer": 14, "input_scale": 0.05}, "layer and input_scale"),
        ({"writes": "mlp_out.3"}, "writes"),
    ],
)
def test_what_the_files_settle_is_not_to_be_given(name: str, given: dict[str, Any], named: str, tmp_path: Path) -> None:
    """Passed over in silence, a scale or a place would seem to have been heeded."""
    export(small_coder("topk"), tmp_path / "coder", name)
    reads = load(tmp_path / "coder", reads="resid_post.2").reads[0].point
    assert reads == "resid_post.2"
    if (name, named) == ("saescope", "writes"):
        assert load(tmp_path / "coder", **given).writes[0].point == "mlp_out.3"
        return
    with pytest.raises(UsageError, match=rf"is {name}, whose files settle {named}; leave {named} out"):
        load(tmp_path / "coder", reads="resid_post.2", **given)


@pytest.mark.parametrize("name", SAME)
def test_sae_lens_files_come_back_byte_by_byte(name: str, tmp_path: Path) -> None:
    folder = FIXTURES / "sae_lens" / name
    export(load(folder), tmp_path / "out", "sae_lens")
    before, after = (load_file(where / "sae_weights.safetensors") for where in (folder, tmp_path / "out"))
    if name == "matching_pursuit_no_b_dec":
        # SAELens keeps a b_dec there that it never uses.
        before["b_dec"].zero_()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    was, now = (json.loads((where / "cfg.json").read_text()) for where in (folder, tmp_path / "out"))
    for key in set(was) - {"metadata", "dtype"}:
        assert now[key] == was[key], key
    for key in ("hook_name", "hook_name_out", "model_name", "prepend_bos", "context_size"):
        assert now["metadata"].get(key) == was["metadata"].get(key), key


@pytest.mark.parametrize(
    "name", [path.name for path in sorted((FIXTURES / "dictionary_learning").iterdir()) if path.is_dir()]
)
def test_dictionary_learning_comes_back(name: str, tmp_path: Path) -> None:
    coder = load(FIXTURES / "dictionary_learning" / name)
    export(coder, tmp_path / "out", "dictionary_learning")
    again = load(tmp_path / "out")
    same_numbers(coder, again)
    assert again.reads == coder.reads
    assert again.metadata.model == coder.metadata.model
    if name in ("AutoEncoder", "AutoEncoderNew", "GatedAutoEncoder", "JumpReluAutoEncoder"):
        before, after = (
            torch.load(where / "ae.pt") for where in (FIXTURES / "dictionary_learning" / name, tmp_path / "out")
        )
        assert all(torch.equal(before[key], after[key]) for key in before | after)


@pytest.mark.parametrize("name", ["sae/layers.3", "transcoder/layers.3.mlp", "skip/layers.3.mlp"])
def test_sparsify_comes_back_byte_by_byte(name: str, tmp_path: Path) -> None:
    folder = FIXTURES / "sparsify" / name
    coder = load(folder)
    export(coder, tmp_path / "out", "sparsify")
    before, after = (load_file(where / "sae.safetensors") for where in (folder, tmp_path / "out"))
    assert all(torch.equal(before[key], after[key]) for key in before | after)
    again = load(tmp_path / "out")
    assert (again.reads, again.writes, again.kind) == (coder.reads, coder.writes, coder.kind)


@pytest.mark.parametrize("target", ["sparsify", "dictionary_learning"])
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "gated", "standard"])
@pytest.mark.parametrize("subtracted", [True, False])
def test_b_dec_is_taken_up_where_the_other_tool_subtracts_otherwise(
    target: str, architecture: str, subtracted: bool, tmp_path: Path
) -> None:
    if target == "sparsify" and architecture != "topk":
        return
    coder = small_coder(architecture, dtype=torch.float32)
    coder.apply_b_dec_to_input = subtracted
    export(coder.eval(), tmp_path / "out", target)
    same_numbers(coder, load(tmp_path / "out"), 1e-4)


@pytest.mark.parametrize("row", [row for row in FORMATS if row.writes], ids=lambda row: row.name)
@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard", "gated", "abstopk", "matching_pursuit"])
@pytest.mark.parametrize("shape", ["sae", "transcoder", "skip_transcoder", "normed"])
def test_every_coder_is_written_whole_or_refused(row: object, architecture: str, shape: str, tmp_path: Path) -> None:
    wide = {"transcoder": {"d_out": 10}, "skip_transcoder": {"d_out": 10, "skip": True}}.get(shape, {})
    if wide and architecture == "matching_pursuit":
        return
    coder = small_coder(architecture, dtype=torch.float32, **wide).eval()
    coder.token_norm = TokenNorm("layer_norm") if shape == "normed" else None
    refused = None
    try:
        export(coder, tmp_path / "out", row.name)
    except CoderError as error:
        refused = str(error)
    if refused is not None:
        assert "\n" not in refused
        assert row.name != "saescope"
        assert not any(tmp_path.iterdir()), "nothing is left behind"
        return
    same_numbers(coder, load(tmp_path / "out"), 1e-4)


@pytest.mark.parametrize(
    ("architecture", "shape", "target", "says"),
    [
        ("jumprelu", {}, "sparsify", "sparsify has TopK coders only, and this is a jumprelu sae"),
        ("topk", {"d_out": 7}, "sparsify", "write as many dimensions as they read, and this one 10 and 7"),
        ("topk", {"d_out": 7}, "sae_lens", "SAELens has no topk_transcoder"),
        ("topk", {"d_out": 7}, "dictionary_learning", "dictionary_learning has SAEs only, and this is a transcoder"),
        ("abstopk", {}, "dictionary_learning", "has standard, gated, topk and jumprelu SAEs, and this one is abstopk"),
    ],
)
def test_refusals_name_what_has_no_place(
    architecture: str, shape: dict[str, int], target: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(CoderError, match=says):
        export(small_coder(architecture, dtype=torch.float32, **shape), tmp_path / "out", target)
    assert not any(tmp_path.iterdir())


def test_formats_that_are_only_read_or_unknown_are_usage_errors(tmp_path: Path) -> None:
    coder = small_coder("topk", dtype=torch.float32)
    with pytest.raises(UsageError, match="reads gemma_scope and does not write it; there are saescope, sparsify"):
        export(coder, tmp_path / "out", "gemma_scope")
    with pytest.raises(UsageError, match=r"unknown format 'saelens'; .*nearest: sae_lens"):
        export(coder, tmp_path / "out", "saelens")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "a.txt").write_text("years of work")
    with pytest.raises(OccupiedError):
        export(coder, tmp_path / "thesis", "sae_lens")
