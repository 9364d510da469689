"""Every command and the page's model routes where model and coders are on another device than the processor."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fastapi.testclient import TestClient
from tests.conftest import write_tiny_model_and_corpus
from tests.features.index.built import tiny_index
from tests.measured import tiny_lm
from tests.second_device import SECOND, There, second_device
from tests.server.conftest import HEADERS, HERE
from transformers import PreTrainedTokenizerFast

import saescope
from saescope import cli
from saescope.coders import SparseCoder, architecture_names, load
from saescope.server import create_app

DEVICE = "mps"
SMALL = "--d-sae 64 --l0 4 --batch-size 128"
ALL = f"--points resid_post.1 --arch {','.join(architecture_names(trainable=True))} {SMALL} --passes 2"


@pytest.fixture(autouse=True)
def second(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    monkeypatch.setenv("SAESCOPE_QUIET", "1")
    with second_device() as device:
        yield device


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: PreTrainedTokenizerFast) -> Path:
    folder = tmp_path_factory.mktemp("second")
    write_tiny_model_and_corpus(folder, byte_tokenizer)
    points = "resid_post.1,mlp_in.1,mlp_out.1"
    with second_device():
        command(
            folder,
            f"harvest --model model --corpus corpus.jsonl --points {points} --tokens 6000 --context 32 --out store",
        )
        command(folder, f"train store {ALL} --out run")
    return folder


@pytest.fixture
def encoded_on(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The devices on which coders encode."""
    found: list[str] = []
    original = SparseCoder.encode

    def encode(self: SparseCoder, x: torch.Tensor) -> saescope.Codes:
        found.append(self.device.type)
        return original(self, x)

    monkeypatch.setattr(SparseCoder, "encode", encode)
    return found


def command(place: Path, line: str, device: str = DEVICE) -> None:
    cli._register()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        cli.app([*line.split(), "--device", device], standalone_mode=False)


def test_the_device_refuses_what_a_real_one_refuses(second: torch.device) -> None:
    there, here = torch.ones(3, device=second), torch.ones(3)
    assert there.device == (there + 1).device == here.to(there).device == SECOND
    for mixed in (
        lambda: there + here,
        lambda: torch.cat([there, here]),
        lambda: here[there.long()],
        lambda: there.index_add_(0, torch.tensor([0]), there[:1]),
        lambda: there.__setitem__(torch.tensor([0]), here[:1]),
        lambda: torch.rand(3, device=second, generator=torch.Generator()),
    ):
        with pytest.raises(RuntimeError, match="device"):
            mixed()
    for refused in (there.numpy, there.double, lambda: torch.zeros(3, dtype=torch.float64, device=second)):
        with pytest.raises(TypeError, match=r"mps|MPS"):
            refused()
    with pytest.raises(NotImplementedError, match="segment_reduce"):
        torch.segment_reduce(there, "sum", lengths=torch.tensor([3], device=second))
    layer = torch.nn.Linear(3, 2).to(second)
    layer(there).sum().backward()
    assert isinstance(layer.weight.grad, There)
    assert torch.equal(layer.weight.grad.cpu(), torch.ones(2, 3))


def test_training_ends_where_it_ends_on_the_processor(place: Path) -> None:
    command(place, f"train store {ALL} --out on-processor", "cpu")
    shards = saescope.Store.open(place / "store").shards()
    x = torch.cat([shard.activations["resid_post.1"] for shard in shards]).float()
    for arch in architecture_names(trainable=True):
        there, here = (load(place / run / "coders" / arch) for run in ("run", "on-processor"))
        errors = [float((coder(x) - x).square().sum() / (x - x.mean(0)).square().sum()) for coder in (there, here)]
        assert errors[0] == pytest.approx(errors[1], rel=0.02), arch
        moved = load(place / "run" / "coders" / arch, device=SECOND)
        assert moved.device == SECOND
        torch.testing.assert_close(moved(x[:50]).cpu(), moved.to("cpu")(x[:50]), atol=1e-5, rtol=1e-4)


def test_transcoders_and_streams(place: Path) -> None:
    command(
        place,
        f"train store --reads mlp_in.1 --writes mlp_out.1 --skip --arch topk {SMALL} --set resample=[0.5] --set dead_after=0.2 "
        "--out skip",
    )
    command(
        place,
        f"train --model model --corpus corpus.jsonl --points resid_post.1,z.0 --tokens 3000 --context 32 {SMALL} --out stream",
    )
    command(place, "eval skip/coder --model model --corpus corpus.jsonl --tokens 500 --compat saebench,saelens")


def test_coders_are_measured_where_the_model_is(place: Path, encoded_on: list[str]) -> None:
    coders = "run/coders/topk run/coders/batchtopk"
    command(
        place, f"eval {coders} --corpus corpus.jsonl --tokens 500 --store store --suite all --examples 20 --out eval"
    )
    assert set(encoded_on) == {DEVICE}
    for one in json.loads((place / "eval" / "metrics.json").read_text()):
        assert one["controls"]["frozen_random"]["fvu_centered"] > one["coder"]["fvu_centered"]


def test_a_callers_coder_stays_where_it_is(place: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    lm = saescope.LanguageModel.load(str(place / "model"), device=DEVICE)
    coder = load(place / "run" / "coders" / "batchtopk")
    documents = saescope.Corpus.open(place / "corpus.jsonl")
    found = saescope.evaluate(coder, lm, documents, max_tokens=200)[0]
    assert coder.device.type == "cpu"
    assert found.coder["l0"] > 0


@pytest.mark.parametrize("text", ["--store store", "--corpus corpus.jsonl --tokens 1000"])
def test_an_index_is_made_where_the_model_is(place: Path, tmp_path: Path, text: str, encoded_on: list[str]) -> None:
    command(place, f"index run/coders/batchtopk {text} --out {tmp_path / 'index'}")
    assert set(encoded_on) == {DEVICE}
    assert saescope.FeatureIndex.open(tmp_path / "index").has("lens_peak")


def test_sweeps_and_known_features(place: Path) -> None:
    command(
        place,
        "sweep store --reads resid_post.1 --arch topk --l0 4 --d-sae 64 --frozen-decoder --corpus corpus.jsonl "
        "--tokens 500 --ce-tokens 200 --out sweep",
    )
    command(place, "synthetic --preset toy --arch jumprelu --tokens 5000 --measure 4096 --seeds 0 --out synthetic")
    command(place, "bench --arch jumprelu --d-sae 64 --d-in 32 --pairs 1")


def test_the_page_asks_and_steers(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast, encoded_on: list[str]
) -> None:
    known = tiny_lm(byte_tokenizer)
    tiny_index(tmp_path, byte_tokenizer, lm=known)
    encoded_on.clear()
    lm = saescope.LanguageModel.from_hf(copy.deepcopy(known.hf_model).to(SECOND), byte_tokenizer, name=known.name)
    with TestClient(create_app(tmp_path, lm=lm), base_url=HERE, headers=HEADERS) as client:
        asked = client.post("/api/coders/random/prompt", json={"text": "The quick brown fox"})
        assert asked.status_code == 200, asked.text
        assert asked.json()["strongest"]
        steered = client.post(
            "/api/coders/random/steer", json={"text": "The quick", "feature": 0, "strength": 2.0, "max_new_tokens": 4}
        )
        assert steered.status_code == 200, steered.text
        assert '"error"' not in steered.text
    assert set(encoded_on) == {DEVICE}
