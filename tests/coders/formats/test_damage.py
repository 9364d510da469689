"""Damaged files, and files of another kind: refused in one line, or loaded with the very numbers they had."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from tests.coders.formats.test_golden import FIXTURES
from tests.coders.formats.test_layouts import gemma, gemma_2, llama, openai
from torch import Tensor

from saescope.coders import SparseCoder, load
from saescope.coders.formats import sae_lens
from saescope.errors import CoderError

pytestmark = pytest.mark.filterwarnings("ignore")
X = torch.randn(16, 12, generator=torch.Generator().manual_seed(4)) * 2
SAE_LENS = ("standard", "gated", "topk", "jumprelu", "matching_pursuit", "skip_transcoder")
DICTIONARIES = ("AutoEncoder", "AutoEncoderTopK", "BatchTopKSAE", "MatryoshkaBatchTopKSAE", "JumpReluAutoEncoder")


def made(folder: Path, name: str) -> Path:
    """A whole coder's folder of a format, and the file of its weights."""
    package, _, case = name.partition("/")
    if package in ("sae_lens", "dictionary_learning", "sparsify"):
        shutil.copytree(FIXTURES / package / case, folder, dirs_exist_ok=True)
        return folder / {"sae_lens": "sae_weights.safetensors", "sparsify": "sae.safetensors"}.get(package, "ae.pt")
    shutil.rmtree(folder)
    if package == "gemma_scope":
        gemma(folder)
        return folder / "params.npz"
    if package == "gemma_scope_2":
        gemma_2(folder, {"hf_hook_point_in": "model.layers.10.output"})
        return folder / "params.safetensors"
    if package == "llama_scope":
        llama(folder)
        return folder / "checkpoints" / "final.safetensors"
    openai(folder / "8.pt")
    return folder / "8.pt"


CASES = (
    *(f"sae_lens/{case}" for case in SAE_LENS),
    *(f"dictionary_learning/{case}" for case in DICTIONARIES),
    "sparsify/skip/layers.3.mlp",
    "gemma_scope",
    "gemma_scope_2",
    "llama_scope",
    "openai",
)


@cache
def whole(name: str, folder: Path) -> tuple[Tensor, Tensor]:
    """The codes and output of the undamaged coder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    made(folder, name)
    return numbers(loaded(folder))


def loaded(folder: Path) -> SparseCoder:
    """Points are given, so that what they are read from does not matter where a format needs them."""
    written = any(
        word in json.dumps([path.read_text() for path in folder.glob("cfg.json")]) for word in ("transcode", "d_out")
    )
    layer = 8 if (folder / "8.pt").exists() else None
    return load(folder, reads="mlp_in.3", writes="mlp_out.3" if written else None, layer=layer)


def numbers(coder: SparseCoder) -> tuple[Tensor, Tensor]:
    codes = coder.encode(X)
    return codes.dense(), coder.decode(codes, X)


def refused_or_the_same(name: str, folder: Path, damage: Callable[[Path], None], place: Path) -> str:
    """Damage a fresh copy, and load it."""
    expected = whole(name, place / "whole")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    damage(made(folder, name))
    try:
        found = numbers(loaded(folder))
    except CoderError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "\n" not in refusal
        assert len(refusal) < 700
        return refusal
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(found, expected, strict=True)), "loaded wrong"
    return ""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("damage")


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(CASES), share=st.floats(0, 1, exclude_max=True))
def test_truncated(name: str, share: float, place: Path) -> None:
    def damage(weights: Path) -> None:
        content = weights.read_bytes()
        weights.write_bytes(content[: int(share * len(content))])

    assert refused_or_the_same(name, place / "truncated", damage, place)


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(CASES), share=st.floats(0, 1, exclude_max=True), value=st.integers(1, 255))
def test_a_byte_of_the_header_flipped(name: str, share: float, value: int, place: Path) -> None:
    """Of the header, because a flipped number is a number; archives have checksums, so there it is any byte."""

    def damage(weights: Path) -> None:
        content = bytearray(weights.read_bytes())
        end = len(content)
        if weights.suffix == ".safetensors":
            end = 8 + int.from_bytes(content[:8], "little")
        at = int(share * end)
        content[at] ^= value
        weights.write_bytes(bytes(content))

    refused_or_the_same(name, place / "flipped", damage, place)


def read_weights(path: Path) -> dict[str, Any]:
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    return load_file(path) if path.suffix == ".safetensors" else torch.load(path)


def write_weights(path: Path, content: dict[str, Any]) -> None:
    if path.suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in content.items()})
    elif path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in content.items()}, path)
    else:
        torch.save(content, path)


def poisoned(value: Tensor) -> Tensor:
    value = value.clone()
    value[(0,) * value.ndim] = torch.nan
    return value


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    "integers": lambda value: value.to(torch.int32),
    "booleans": lambda value: value > 0,
    "complex": lambda value: value.to(torch.complex64),
    "transposed": lambda value: value.T if value.ndim == 2 else value[None],
    "flattened": lambda value: value.flatten() if value.ndim == 2 else value[:, None],
    "shortened": lambda value: value[:-1],
    "empty": lambda value: value[:0],
    "doubled": lambda value: torch.cat([value, value]),
    "nan": poisoned,
    "infinite": lambda value: torch.full_like(value, torch.inf),
}
# Of these torch.save alone can make files; the first two would need petabytes if they were believed.
ODD: dict[str, Callable[[Tensor], object]] = {
    "absurd": lambda value: value.flatten()[:1].expand(10**5, 10**6),
    "absurd list": lambda value: value.flatten()[:1].expand(10**12),
    "nowhere": lambda value: value.to("meta"),
    "sparse": lambda value: value.to_sparse(),
    "quantised": lambda value: torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
    "word": lambda value: "a word",
    "list": lambda value: value.tolist(),
}


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(CASES), which=st.integers(0, 20), change=st.sampled_from([*CHANGES, *ODD]))
def test_a_tensor_of_another_kind(name: str, which: int, change: str, place: Path) -> None:
    def damage(weights: Path) -> None:
        content = read_weights(weights)
        floats = [
            key
            for key in sorted(content)
            if isinstance(content[key], Tensor) and content[key].ndim and content[key].is_floating_point()
        ]
        key = floats[which % len(floats)]
        if key == "W_skip" and change == "transposed":
            return  # square here, and so as good a matrix
        if change in CHANGES:
            content[key] = CHANGES[change](content[key])
        elif weights.suffix == ".pt":
            content[key] = ODD[change](content[key])
        write_weights(weights, content)

    refused_or_the_same(name, place / "tensor", damage, place)


@settings(max_examples=80, deadline=None)
@given(name=st.sampled_from(CASES), which=st.integers(0, 20), rename=st.booleans())
def test_a_tensor_missing_or_of_another_name(name: str, which: int, rename: bool, place: Path) -> None:
    def damage(weights: Path) -> None:
        content = read_weights(weights)
        key = sorted(content)[which % len(content)]
        value = content.pop(key)
        if rename:
            content[f"{key}_"] = value
        write_weights(weights, content)

    refused_or_the_same(name, place / "missing", damage, place)


WRONG = (None, True, -3, 0, 2**70, 1.5, float("nan"), "12", "nonsense", [], {}, [1, 2])
CONFIGS = {
    "sae_lens": "cfg.json",
    "sparsify": "cfg.json",
    "dictionary_learning": "config.json",
    "llama_scope": "hyperparams.json",
}
# What a coder computes depends on these numbers, and another number is as good a configuration.
FREE = {
    "jump_relu_threshold",
    "residual_threshold",
    "max_iterations",
    "stop_on_duplicate_support",
    "dataset_average_activation_norm",
}
# Flags: another flag is another coder.
FLAGS = {
    "sparsity_include_decoder_norm",
    "use_decoder_bias",
    "apply_decoder_bias_to_pre_encoder",
    "rescale_acts_by_decoder_norm",
}
FLAGS |= {"apply_b_dec_to_input", "skip_connection", "transcode", "signed", "use_glu_encoder"}


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from([case for case in CASES if case.split("/")[0] in CONFIGS]),
    which=st.integers(0, 40),
    value=st.sampled_from(["dropped", *WRONG]),
)
def test_a_configuration_of_the_wrong_kind(name: str, which: int, value: Any, place: Path) -> None:
    """A wrong value is refused, or does not matter; a free number may be another."""

    def damage(weights: Path) -> None:
        file = CONFIGS[name.split("/")[0]]
        path = next(folder / file for folder in (weights.parent, weights.parent.parent) if (folder / file).exists())
        config = json.loads(path.read_text())
        inner = config.get("trainer", config)
        key = sorted(inner)[which % len(inner)]
        if key in FREE or (key in FLAGS and (value is True or value == "dropped" or value is None)):
            return
        if value == "dropped":
            del inner[key]
        else:
            inner[key] = value
        path.write_text(json.dumps(config))

    refused_or_the_same(name, place / "config", damage, place)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"\x89PNG\r\n\x1a\n" + b"\0" * 60, b'{"a": 1}', b"PK\x05\x06" + b"\0" * 18, b"\xff" * 8 + b"{}"],
    ids=["empty", "zeros", "png", "json", "empty zip", "endless header"],
)
def test_another_file_under_its_name(name: str, content: bytes, place: Path) -> None:
    assert refused_or_the_same(name, place / "other", lambda weights: weights.write_bytes(content) and None, place)


class Exploit:
    """Makes a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return (eval, (f"open({str(self.file)!r}, 'w')",))


@pytest.mark.parametrize("legacy", [True, False])
def test_a_pickle_that_runs_code_is_refused_unrun(legacy: bool, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    content = {"encoder.weight": Exploit(ran)}
    pickle.loads(pickle.dumps(content))
    assert ran.exists(), "it would run"
    ran.unlink()
    if legacy:
        (tmp_path / "ae.pt").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, tmp_path / "ae.pt")
    with pytest.raises(CoderError, match=r"loading it could run code|damaged or not a file of torch.save") as error:
        load(tmp_path, reads="resid_post.3")
    assert "\n" not in str(error.value)
    assert not ran.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 4), tmp_path / "ae.pt")
    with pytest.raises(CoderError, match=r"holds more than tensors, .*; ask its author for safetensors"):
        load(tmp_path, reads="resid_post.3")


def test_arrays_of_objects_are_refused(tmp_path: Path) -> None:
    gemma(tmp_path / "coder")
    np.savez(tmp_path / "coder" / "params.npz", W_enc=np.array([Exploit(tmp_path / "ran")], dtype=object))
    with pytest.raises(CoderError, match="holds Python objects"):
        load(tmp_path / "coder")


def test_an_array_that_claims_the_world_is_refused(tmp_path: Path) -> None:
    """An npz whose header says a petabyte: nothing of it is allocated."""
    import io
    import zipfile

    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**8, 10**7)})
    with zipfile.ZipFile(tmp_path / "params.npz", "w") as archive:
        archive.writestr("W_enc.npy", header.getvalue())
    with pytest.raises(CoderError, match=r"claims .* GiB of tensors and .* GiB of memory are free"):
        load(tmp_path)


def test_temporal_is_refused_by_name(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "sae_lens" / "standard", tmp_path / "coder")
    path = tmp_path / "coder" / sae_lens.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"architecture": "temporal"}))
    with pytest.raises(
        CoderError, match="architecture 'temporal', which saescope does not read: its codes depend on the tokens"
    ):
        load(tmp_path / "coder")


def test_k_above_the_latents(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "sae_lens" / "topk", tmp_path / "coder")
    path = tmp_path / "coder" / sae_lens.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"k": 21}))
    with pytest.raises(CoderError, match="has k = 21 and only 20 latents"):
        load(tmp_path / "coder")
