"""What a damaged or foreign coder folder says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.coders.conftest import small_coder

from saescope.coders import export, load, load_reference, save
from saescope.errors import CoderError, ForeignCoderWarning, OccupiedError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(small_coder("jumprelu", dtype=torch.float32), tmp_path / "coder")


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "cfg.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    weights = load_file(folder / "sae_weights.safetensors")
    change(weights)
    save_file({key: value.contiguous() for key, value in weights.items()}, folder / "sae_weights.safetensors")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda f: (f / "cfg.json").unlink(), "cfg.json is missing"),
        (lambda f: (f / "cfg.json").write_text("{"), "cfg.json cannot be read"),
        (lambda f: (f / "cfg.json").write_text("[1]"), "holds a list"),
        (
            lambda f: (f / "saescope.json").write_text('{"reads": [{"point": "a", "width": -1}]}'),
            "saescope.json is damaged",
        ),
        (
            lambda f: (f / "saescope.json").write_text('{"metadata": {"training": {"tokens": "many"}}}'),
            "saescope.json is damaged: training: tokens is 'many', which is no count",
        ),
        (lambda f: edit_config(f, architecture="temporal"), "architecture 'temporal', which saescope does not read"),
        (lambda f: edit_config(f, normalize_activations="whitening"), "asks for normalize_activations='whitening'"),
        (lambda f: edit_config(f, d_sae="many"), "cfg.json has d_sae = 'many', which is not a number of dimensions"),
        (lambda f: (f / "sae_weights.safetensors").unlink(), "sae_weights.safetensors is missing"),
        (lambda f: (f / "sae_weights.safetensors").write_bytes(b"\0" * 100), "damaged or not a safetensors file"),
        (
            lambda f: (f / "sae_weights.safetensors").write_bytes((f / "sae_weights.safetensors").read_bytes()[:-50]),
            "damaged or not a safetensors file",
        ),
        (lambda f: edit_weights(f, lambda w: w.pop("threshold")), "has no tensor 'threshold'"),
        (
            lambda f: edit_weights(f, lambda w: w.update(W_enc=w["W_enc"].T)),
            r"W_enc is \[48, 10\], cfg.json makes it \[10, 48\]",
        ),
        (lambda f: edit_weights(f, lambda w: w["b_enc"].fill_(torch.nan)), "b_enc contains NaN"),
        (lambda f: edit_weights(f, lambda w: w.update(extra=torch.zeros(1))), "unknown tensors extra"),
    ],
)
def test_damage_is_named_in_one_line(folder: Path, damage: Callable[[Path], object], says: str) -> None:
    damage(folder)
    with pytest.raises(CoderError, match=says) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_reference_tensors_stay_with_their_points_and_come_with_any_spelling(folder: Path, tmp_path: Path) -> None:
    coder = load(folder)
    reference = {f"mean.{coder.reads[0].point}": torch.arange(coder.d_in).float()}
    save(coder, folder, reference=reference)
    for spelling in (folder, folder / "sae_weights.safetensors", f"{folder}/"):
        assert torch.equal(load_reference(spelling)[f"mean.{coder.reads[0].point}"], torch.arange(coder.d_in).float())
    save(coder, folder)
    assert load_reference(folder), "the same coder, saved again"
    coder.metadata.corpus = {"name": "another"}
    save(coder, folder)
    assert not load_reference(folder), "means of another text"
    export(coder, tmp_path / "copy", "saescope", reference=reference)
    assert load_reference(tmp_path / "copy").keys() == reference.keys()


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(CoderError, match="there is no such folder"):
        load(tmp_path / "nowhere")


def test_saving_over_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(OccupiedError, match="is not replaced"):
        save(small_coder("jumprelu"), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_a_full_disk_leaves_the_old_coder_and_nothing_else(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / "sae_weights.safetensors").read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saescope.coders.formats.sae_lens.save_file", full)
    with pytest.raises(CoderError, match="No space left on device; nothing was left there"):
        save(small_coder("jumprelu", dtype=torch.float32, seed=3), folder)
    assert (folder / "sae_weights.safetensors").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["coder"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(5, "Input/output error")])
def test_a_coder_is_replaced_whole_or_not_at_all(
    folder: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The old one goes only when the new one has its name."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    rename, rmtree = Path.rename, shutil.rmtree

    def stopped(self: Path, target: Path) -> Path:
        if self.name == ".coder.writing":
            raise error
        return rename(self, target)

    def half(path: Path, **options: Any) -> None:
        if path == folder:
            (folder / "sae_weights.safetensors").unlink()
            raise error
        rmtree(path, **options)

    monkeypatch.setattr(Path, "rename", stopped)
    monkeypatch.setattr(shutil, "rmtree", half)
    with pytest.raises((KeyboardInterrupt, CoderError)):
        save(small_coder("jumprelu", dtype=torch.float32, seed=3), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["coder"]
    monkeypatch.undo()
    save(small_coder("jumprelu", dtype=torch.float32, seed=3), folder)
    assert (folder / "sae_weights.safetensors").read_bytes() != before["sae_weights.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["coder"]


def test_coder_of_sae_lens_without_our_file(folder: Path) -> None:
    whole = load(folder)
    (folder / "saescope.json").unlink()
    with pytest.warns(ForeignCoderWarning, match="BOS"):
        alone = load(folder)
    x = torch.randn(5, 10)
    assert torch.equal(alone(x), whole(x))
    assert alone.reads[0].point == "resid_post.1"
