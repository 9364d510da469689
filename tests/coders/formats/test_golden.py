"""Coders in files that other packages wrote compute what those packages compute."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saescope.coders import SparseCoder, load
from saescope.errors import CoderError, ForeignCoderWarning

FIXTURES = Path(__file__).parent / "fixtures"
CASES = {
    f"{package}-{golden.stem}": (FIXTURES / package, golden.stem)
    for package in ("sae_lens", "dictionary_learning", "sparsify")
    for golden in sorted((FIXTURES / package).glob("*.safetensors"))
}
OPTIONS = {"sae_lens-scaled_standard": {"input_scale": 0.25}, "sae_lens-scaled_matching_pursuit": {"input_scale": 0.25}}
# float32 on both sides, sums in another order.
TOLERANCE = 2e-5

pytestmark = pytest.mark.filterwarnings("ignore::saescope.errors.ForeignCoderWarning")


def folder_of(package: Path, name: str) -> Path:
    return next((package / name).iterdir()) if package.name == "sparsify" else package / name


def agrees(coder: SparseCoder, golden: Path) -> None:
    values = load_file(golden)
    codes = coder.encode(values["x"])
    for mine, theirs in ((codes.dense(), values["codes"]), (coder.decode(codes, values["x"]), values["x_hat"])):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE * float(theirs.abs().max()))
    assert torch.equal(codes.dense() != 0, values["codes"] != 0)
    assert 0 < codes.nnz < codes.n_tokens * codes.d_sae


@pytest.mark.parametrize("case", CASES)
def test_numbers_equal_the_package_that_wrote_the_file(case: str) -> None:
    package, name = CASES[case]
    folder = folder_of(package, name)
    coder = load(folder, **OPTIONS.get(case, {}))
    agrees(coder, package / f"{name}.safetensors")
    assert coder.metadata.imported["format"] == package.name
    assert coder.writes[0].point in ("resid_post.3", "mlp_out_post.3", "mlp_out.3")
    assert load(folder, format=package.name, **OPTIONS.get(case, {})).reads == coder.reads


def test_every_fixture_has_been_seen() -> None:
    """A fixture without golden values would be tested by nobody."""
    for package in ("sae_lens", "dictionary_learning", "sparsify"):
        folders = {path.name for path in (FIXTURES / package).iterdir() if path.is_dir()}
        assert folders == {name for where, name in CASES.values() if where.name == package}
    versions = json.loads((FIXTURES / "versions.json").read_text())
    assert {"sae_lens", "dictionary-learning", "eai-sparsify"} <= set(versions)


def test_what_sae_lens_says_is_kept() -> None:
    coder = load(FIXTURES / "sae_lens" / "jumprelu_skip_transcoder")
    assert (coder.kind, coder.reads[0].point, coder.writes[0].point) == (
        "skip_transcoder",
        "mlp_in.3",
        "mlp_out_post.3",
    )
    assert coder.metadata.model == {"spec": "gpt2-small"}
    assert coder.metadata.sequences == {"context": 64, "bos": "always"}
    assert coder.metadata.imported["warnings"] == []


def test_what_dictionary_learning_says_is_kept() -> None:
    coder = load(FIXTURES / "dictionary_learning" / "MatryoshkaBatchTopKSAE")
    assert coder.metadata.trained_as == "matryoshka"
    assert coder.metadata.levels == [5, 20]
    assert coder.metadata.options == {"k": 4}
    assert coder.metadata.model == {"spec": "EleutherAI/pythia-70m-deduped"}
    assert coder.metadata.sequences == {"context": 128}


@pytest.mark.filterwarnings("default::saescope.errors.ForeignCoderWarning")
@pytest.mark.parametrize(
    ("folder", "says"),
    [
        ("dictionary_learning/backup", "is a backup of a run at step 7, not its final coder"),
        ("dictionary_learning/BatchTopKSAE_unset", "threshold was never estimated"),
        ("sparsify/sae/layers.3", "do not say whether texts began with BOS"),
        (
            "sae_lens/old_standard",
            "does not say whether b_dec is subtracted from the input; it is, as SAELens does then",
        ),
    ],
)
def test_what_is_assumed_is_warned_of_and_recorded(folder: str, says: str) -> None:
    with pytest.warns(ForeignCoderWarning, match=says):
        coder = load(FIXTURES / folder)
    assert any(says in text for text in coder.metadata.imported["warnings"])


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        (
            "sae_lens/scaled_standard",
            r"multiplied by \(expected_average_only_in\); give it with input_scale=0.05 \(--input-scale",
        ),
        ("sae_lens", "holds coders and is none itself; give one: abstopk, abstopk_rescaled"),
        ("sparsify/sae", "holds coders and is none itself; give one: layers.3"),
    ],
)
def test_what_has_to_be_said_is_asked_for(folder: str, says: str) -> None:
    with pytest.raises(CoderError, match=says):
        load(FIXTURES / folder)


def test_a_file_stands_for_its_folder() -> None:
    folder = FIXTURES / "dictionary_learning" / "GatedAutoEncoder"
    agrees(load(folder / "ae.pt"), folder.with_suffix(".safetensors"))
    agrees(load(folder, file="ae.pt"), folder.with_suffix(".safetensors"))
    with pytest.raises(CoderError, match=r"has no file ae2.pt; it has ae.pt, config.json"):
        load(folder, file="ae2.pt")


def test_a_checkpoint_finds_its_runs_configuration(tmp_path: Path) -> None:
    folder = FIXTURES / "dictionary_learning" / "BatchTopKSAE"
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(folder / "ae.pt", tmp_path / "checkpoints" / "ae_500.pt")
    with pytest.raises(
        CoderError, match=r"AutoEncoderTopK and BatchTopKSAE share; put its config.json, which says which, beside it"
    ):
        load(tmp_path / "checkpoints" / "ae_500.pt")
    shutil.copy(folder / "config.json", tmp_path)
    for given in (load(tmp_path / "checkpoints" / "ae_500.pt"), load(tmp_path, file="checkpoints/ae_500.pt")):
        agrees(given, folder.with_suffix(".safetensors"))


def test_the_users_word_wins_and_the_difference_is_told() -> None:
    folder = FIXTURES / "sae_lens" / "standard"
    with pytest.warns(ForeignCoderWarning, match="its files name blocks.3.hook_resid_post"):
        coder = load(folder, reads="model.layers.5")
    assert coder.reads == coder.writes
    assert coder.reads[0].point == "resid_post.5"
