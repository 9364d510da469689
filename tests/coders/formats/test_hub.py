"""Coders from the hub: what is fetched, what the local cache gives without a network, and what is said when neither helps."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tests.coders.formats.test_golden import FIXTURES
from tests.coders.formats.test_layouts import circuit_tracer

from saescope.coders import load
from saescope.coders.formats.hub import is_hub_spec
from saescope.errors import CoderError

pytestmark = pytest.mark.filterwarnings("ignore::saescope.errors.ForeignCoderWarning")
X = torch.randn(5, 12)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub whose repositories are folders below `hub`; the files it was asked for are in `fetched`."""
    import huggingface_hub

    root = tmp_path / "hub"
    shutil.copytree(FIXTURES / "sae_lens" / "standard", root / "someone" / "saes" / "blocks.3" / "standard")
    circuit_tracer_at = root / "someone" / "transcoders"
    circuit_tracer_at.parent.mkdir(exist_ok=True)
    circuit_tracer(circuit_tracer_at)
    fetched: list[str] = []

    class Api:
        def model_info(self, repo: str, revision: str | None = None, timeout: float | None = None) -> object:
            if not (root / repo).exists():
                from huggingface_hub.errors import RepositoryNotFoundError

                raise RepositoryNotFoundError("404", response=SimpleNamespace(headers={}, request=None))
            files = [str(path.relative_to(root / repo)) for path in (root / repo).rglob("*") if path.is_file()]
            return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in files])

    def download(repo: str, file: str, revision: str | None = None) -> str:
        fetched.append(f"{repo}/{file}@{revision}")
        return str(root / repo / file)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fetched").touch()
    monkeypatch.setattr(load, "fetched", fetched, raising=False)
    return root


@pytest.mark.parametrize("spec", ["someone/saes/blocks.3/standard", "hf:someone/saes/blocks.3/standard"])
def test_a_folder_of_a_repository(spec: str, hub: Path) -> None:
    coder = load(spec)
    assert torch.equal(coder(X), load(FIXTURES / "sae_lens" / "standard")(X))
    assert coder.metadata.imported["source"] == spec
    names = {name.rsplit("/", 1)[1] for name in load.fetched}  # type: ignore[attr-defined]
    assert names == {"cfg.json@None", "sae_weights.safetensors@None"}


def test_one_file_of_many_is_all_that_is_fetched(hub: Path) -> None:
    by_layer = load("someone/transcoders", layer=1)
    names = set(load.fetched)  # type: ignore[attr-defined]
    assert names == {"someone/transcoders/config.yaml@None", "someone/transcoders/layer_1.safetensors@None"}
    for other in (
        load("someone/transcoders/layer_1.safetensors"),
        load("someone/transcoders", file="layer_1.safetensors"),
    ):
        assert torch.equal(by_layer(X), other(X))


def test_a_revision(hub: Path) -> None:
    load("hf:someone/transcoders@v2/layer_0.safetensors")
    assert all(name.endswith("@v2") for name in load.fetched)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("someone/nothing", "there is no such folder, and the hub has no someone/nothing, or it is private"),
        ("someone/saes/blocks.9", "someone/saes has nothing at blocks.9; it has blocks.3/standard/cfg.json"),
        ("someone/saes", "holds coders and is none itself"),
        ("hf:saes", "is not a hub repository; write owner/name"),
    ],
)
def test_what_is_not_there(spec: str, says: str, hub: Path) -> None:
    with pytest.raises(CoderError, match=says) as error:
        load(spec)
    assert "\n" not in str(error.value)


def test_without_a_network_the_cache_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    snapshot = tmp_path / "cache" / "models--someone--saes" / "snapshots" / "abc"
    shutil.copytree(FIXTURES / "sae_lens" / "topk", snapshot / "blocks.3")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(snapshot))
    monkeypatch.chdir(tmp_path)
    assert torch.equal(load("someone/saes/blocks.3")(X), load(FIXTURES / "sae_lens" / "topk")(X))
    with pytest.raises(
        CoderError, match=r"the local hub cache of someone/saes has nothing at blocks.4, and HF_HUB_OFFLINE is set"
    ):
        load("someone/saes/blocks.4")


def test_out_of_reach_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    class Api:
        def model_info(self, *_: object, **__: object) -> object:
            raise ConnectionError("name resolution failed\nmany lines")

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    says = r"nothing of nobody/nothing in the local hub cache, and the hub did not answer \(name resolution failed many lines\)"
    with pytest.raises(CoderError, match=says) as error:
        load("nobody/nothing")
    assert "\n" not in str(error.value)


def test_paths_are_not_taken_for_repositories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for spec in ("runs/coder", "./a/b", "../a/b", "/a/b", "~/a/b", "coder", "a\\b", ""):
        assert not is_hub_spec(spec), spec
    for spec in ("google/gemma-scope-2b-pt-res", "hf:runs/coder", "a/b/c/d.safetensors"):
        assert is_hub_spec(spec), spec
    with pytest.raises(CoderError, match="no coder at runs/coder: there is no such folder"):
        load("runs/coder")
