"""Attention's heads before the output projection, side by side, as a place for a coder: from harvest to splice."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saescope.activations import Store, StoreStream
from saescope.coders import Slice, SparseCoder, load, make_architecture, save, splice
from saescope.lm import Edit, LanguageModel
from saescope.training import resolve, train


@pytest.fixture(scope="module")
def folder(make: Callable[..., Store], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("z")
    store = make(place / "store", ["z.1", "mlp_out.1"])
    config = resolve(
        None, {"batch_size": 64, "passes": 6}, {"d_sae": 96, "lr": 3e-3}, l0s=[8], reads="z.*", available=store.point_names
    )  # fmt: skip
    train(config, StoreStream(store, config.points, batch_size=64, passes=6), place / "run")
    return place / "run" / "coder"


@pytest.fixture(scope="module")
def coder(folder: Path) -> SparseCoder:
    return load(folder)


def test_sae_lens_is_told_to_join_the_heads(folder: Path, coder: SparseCoder) -> None:
    written = json.loads((folder / "cfg.json").read_text())
    assert written["reshape_activations"] == "hook_z"
    assert written["metadata"]["hook_name"] == "blocks.1.attn.hook_z"
    assert written["metadata"]["hook_head_index"] is None
    assert [part.point for part in coder.reads] == ["z.1"]
    assert coder.d_in == coder.d_out == 24


def test_of_other_points_it_is_not(tmp_path: Path) -> None:
    z, out = Slice(point="z.1", width=24), Slice(point="mlp_out.1", width=24)
    for number, (reads, writes) in enumerate([(out, out), (z, out)]):
        saved = save(SparseCoder(make_architecture("jumprelu", 8, {}), [reads], [writes]), tmp_path / str(number))
        assert json.loads((saved / "cfg.json").read_text())["reshape_activations"] == "none"


def test_it_loads_without_our_file_as_it_loads_with_it(folder: Path, coder: SparseCoder, tmp_path: Path) -> None:
    for name in ("cfg.json", "sae_weights.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    x = torch.randn(7, 24, generator=torch.Generator().manual_seed(0))
    assert torch.equal(load(tmp_path)(x), coder(x))


def test_spliced_it_replaces_what_the_output_projection_reads(lm: LanguageModel, coder: SparseCoder) -> None:
    tokens = torch.arange(3, 23).reshape(2, 10)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    mask[:, 0] = False
    clean = lm.run(tokens, capture=["z.1", "attn_out.1"], logits=True)
    spliced = lm.run(tokens, capture=["z.1", "attn_out.1"], edits=splice(coder, mask), logits=True)
    z = clean.activations["z.1"]
    expected = z.clone()
    expected[mask] = coder(z[mask])
    torch.testing.assert_close(spliced.activations["z.1"], expected)
    projection = lm.hf_model.model.layers[1].self_attn.o_proj  # type: ignore[union-attr, index]
    torch.testing.assert_close(spliced.activations["attn_out.1"], projection(expected))
    by_hand = lm.run(tokens, edits=[Edit("z.1", lambda values, positions: expected)], logits=True)
    assert spliced.logits is not None
    assert by_hand.logits is not None
    torch.testing.assert_close(spliced.logits, by_hand.logits)
    assert not torch.equal(spliced.logits, clean.logits)


def test_it_learned_something(coder: SparseCoder, lm: LanguageModel) -> None:
    tokens = torch.arange(3, 33).reshape(1, 30)
    z = lm.run(tokens, capture=["z.1"]).activations["z.1"][0]
    error = (z - coder(z)).square().sum()
    assert error < (z - z.mean(0)).square().sum()
