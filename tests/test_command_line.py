"""The commands as a person runs them: in a shell, interrupted, killed, and given the wrong thing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tests.conftest import write_tiny_model, write_tiny_model_and_corpus
from transformers import PreTrainedTokenizerFast

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "saescope", *map(str, arguments)]


def run(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        env=ENVIRONMENT | (environment or {}),
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, byte_tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a tiny random model and a corpus of sixty short documents. Its name is one that a terminal's markup
    would take for its own."""
    folder = tmp_path_factory.mktemp("cli") / "[v2][/v1]"
    folder.mkdir(parents=True)
    write_tiny_model_and_corpus(folder, byte_tokenizer)
    return folder


def harvest(place: Path, out: Path, *more: object) -> list[object]:
    return [
        "harvest", "--model", place / "model", "--corpus", place / "corpus.jsonl", "--points", "resid_post.1",
        "--tokens", 6000, "--context", 32, "--batch-tokens", 128, "--shard-tokens", 512, "--out", out, *more,
    ]  # fmt: skip


def train(store: Path, out: Path, *more: object) -> list[object]:
    return [
        "train", store, "--arch", "batchtopk", "--d-sae", 64, "--l0", 4, "--passes", 20, "--batch-size", 128,
        "--lr", "1e-3", "--seed", 0, "--out", out, *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def store(place: Path) -> Path:
    done = run(*harvest(place, place / "store"))
    assert done.returncode == 0, done.stderr
    assert f"next: saescope train {place}/store" in done.stdout
    return place / "store"


@pytest.fixture(scope="module")
def trained(place: Path, store: Path) -> Path:
    done = run(*train(store, place / "run"))
    assert done.returncode == 0, done.stderr
    assert f"Next: saescope eval {place}/run/coder" in done.stdout
    return place / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock" and path.name != ".lock"
    }


def kill_when(arguments: Sequence[object], ready: str, folder: Path, number: int = signal.SIGKILL) -> int:
    """Start a command and send it a signal as soon as a file matching `ready` is in `folder`. Returns the exit code."""
    process = subprocess.Popen(command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    deadline = time.monotonic() + 120
    while process.poll() is None and not list(folder.glob(ready)):
        assert time.monotonic() < deadline, f"{ready} never appeared"
        time.sleep(0.005)
    if process.poll() is None:
        process.send_signal(number)
    process.communicate(timeout=60)
    return process.returncode


def test_killed_harvest_and_training_end_in_the_same_bits(place: Path, store: Path, trained: Path) -> None:
    again = place / "killed-store"
    assert kill_when(harvest(place, again), "shards/00002*", again) == -signal.SIGKILL
    assert not json.loads((again / "manifest.json").read_text())["complete"]
    assert run(*harvest(place, again)).returncode == 0
    assert contents(again) == contents(store)

    rerun = place / "killed-run"
    assert kill_when(train(again, rerun), "checkpoints/step-*/state.json", rerun) == -signal.SIGKILL
    assert not (rerun / "coder").exists()
    done = run(*train(again, rerun))
    assert done.returncode == 0, done.stderr
    for name in ("sae_weights.safetensors", "reference.safetensors", "cfg.json"):
        assert (rerun / "coder" / name).read_bytes() == (trained / "coder" / name).read_bytes(), name


def test_interrupted_training_stops_at_a_step_and_goes_on(place: Path, store: Path, trained: Path) -> None:
    out = place / "interrupted"
    assert kill_when(train(store, out), "checkpoints/step-*/state.json", out, signal.SIGINT) == 130
    assert not (out / "coder").exists()
    assert run(*train(store, out)).returncode == 0
    assert (out / "coder/sae_weights.safetensors").read_bytes() == (
        trained / "coder/sae_weights.safetensors"
    ).read_bytes()


def test_evaluation_writes_metrics_and_report(place: Path, trained: Path) -> None:
    done = run(
        "eval",
        trained / "coder",
        "--model",
        place / "model",
        "--corpus",
        place / "corpus.jsonl",
        "--out",
        place / "eval",
    )
    assert done.returncode == 0, done.stderr
    metrics = json.loads((place / "eval" / "metrics.json").read_text())
    assert metrics["schema"] == 2
    assert 2 < metrics["coder"]["l0"] < 7
    assert metrics["coder"]["fvu_centered"] < metrics["controls"]["frozen_random"]["fvu_centered"]
    page = (place / "eval" / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<script src" not in page
    assert "://" not in page, "the page asks nothing of the network"


def test_streaming_needs_no_store(place: Path) -> None:
    done = run(
        "train", "--model", place / "model", "--corpus", place / "corpus.jsonl", "--points", "resid_post.1,mlp_out.1",
        "--tokens", 3000, "--context", 32, "--d-sae", 64, "--l0", 4, "--batch-size", 128, "--out", place / "streamed", "--json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["coders"]) == {"batchtopk-resid_post.1", "batchtopk-mlp_out.1"}


def test_a_transcoder_a_layer_in_one_streamed_pass(place: Path) -> None:
    arguments = [
        "train", "--model", place / "model", "--corpus", place / "corpus.jsonl", "--reads", "mlp_in.*",
        "--writes", "mlp_out.*", "--tokens", 3000, "--context", 32, "--memory", "200KiB", "--d-sae", 64, "--l0", 4,
        "--batch-size", 128, "--out", place / "layers",
    ]  # fmt: skip
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    names = [f"batchtopk-mlp_out.{layer}" for layer in range(3)]
    assert [line.split()[0] for line in done.stdout.splitlines() if line.strip().startswith("batchtopk")] == names
    assert f"saescope eval {place}/layers/coders/*" in done.stdout
    for layer, name in enumerate(names):
        ours = json.loads((place / "layers" / "coders" / name / "saescope.json").read_text())
        assert [part["point"] for part in ours["reads"] + ours["writes"]] == [f"mlp_in.{layer}", f"mlp_out.{layer}"]
    one_line(run(*arguments[:-1], place / "x", "--writes", "mlp_out.1-2"), 2, "of 3 coders and --writes of 2 coders")
    one_line(run(*arguments[:-1], place / "x", "--memory", "much"), 2, "'much' is not an amount of memory")
    one_line(run(*arguments[:-1], place / "x", "--memory", "4KiB"), 2, "give at least 24.0 KiB")
    assert not (place / "x").exists()


def test_harvested_ranges_train_where_they_exist(place: Path) -> None:
    done = run(*[a if a != "resid_post.1" else "resid_post.*:2,mlp_in.1" for a in harvest(place, place / "several")])
    assert done.returncode == 0, done.stderr
    assert "rows of resid_post.0, resid_post.2, mlp_in.1" in done.stdout
    few = ["--passes", 1, "--json"]
    joined = run(*train(place / "several", place / "joined", "--reads", "resid_post.0+resid_post.2", *few))
    assert set(json.loads(joined.stdout)["coders"]) == {"batchtopk"}, joined.stderr
    some = run(*train(place / "several", place / "some", "--points", "resid_post.*", *few))
    assert set(json.loads(some.stdout)["coders"]) == {"batchtopk-resid_post.0", "batchtopk-resid_post.2"}
    missing = run(*train(place / "several", place / "x", "--reads", "resid_post.0-2"))
    one_line(missing, 2, f"resid_post.1 is not in the store {place}/several, which has resid_post.0, resid_post.2")
    # A configuration's own points are not silently trained at instead of those asked for.
    elsewhere = "train", place / "several", "--config", place / "joined/config.yaml", "--points", "mlp_in.1"
    one_line(run(*elsewhere, "--out", place / "x"), 2, "resid_post.0: --points has no resid_post; it has mlp_in.1")
    assert not (place / "x").exists()


def one_line(done: subprocess.CompletedProcess[str], code: int, says: str) -> None:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert len(lines) == 1, done.stderr
    assert says in lines[0]


def test_unknown_model(place: Path) -> None:
    done = run(
        "harvest", "--model", "smolm2", "--corpus", place / "corpus.jsonl", "--points", "a.1", "--out", place / "x"
    )
    one_line(done, 1, "smollm2")
    assert not (place / "x").exists()


def test_unknown_point_offers_the_nearest(place: Path) -> None:
    done = run(*[a if a != "resid_post.1" else "resid_pst.1" for a in harvest(place, place / "x")])
    one_line(done, 2, "resid_post.1")
    assert not (place / "x").exists()


@pytest.mark.parametrize(("text", "says"), [("", "empty"), ("too short", "32")])
def test_empty_and_short_corpus(place: Path, text: str, says: str) -> None:
    (place / "poor.txt").write_text(text)
    arguments = [place / "poor.txt" if a == place / "corpus.jsonl" else a for a in harvest(place, place / "x")]
    one_line(run(*arguments), 1, says)
    assert not (place / "x").exists()


def test_missing_corpus(place: Path) -> None:
    arguments = [place / "nowhere.txt" if a == place / "corpus.jsonl" else a for a in harvest(place, place / "x")]
    done = run(*arguments)
    one_line(done, done.returncode, "nowhere.txt")
    assert done.returncode in (1, 2)


def test_corrupt_shard_is_named(place: Path, store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    subprocess.run(["cp", "-r", store, copy], check=True)
    shard = copy / "shards" / "00003.safetensors"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 0xFF
    shard.write_bytes(content)
    done = run(*train(copy, tmp_path / "run"))
    one_line(done, 1, "00003.safetensors")


def test_nan_in_the_store_stops_training(store: Path, tmp_path: Path) -> None:
    copy = tmp_path / "store"
    subprocess.run(["cp", "-r", store, copy], check=True)
    path = copy / "statistics.safetensors"
    tensors = load_file(path)
    save_file({name: value * float("nan") for name, value in tensors.items()}, path)
    done = run(*train(copy, tmp_path / "run"))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


def test_coder_of_another_model_or_width(
    place: Path, trained: Path, tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    write_tiny_model(tmp_path / "wide", byte_tokenizer, hidden_size=40)
    done = run(
        "eval",
        trained / "coder",
        "--model",
        tmp_path / "wide",
        "--corpus",
        place / "corpus.jsonl",
        "--out",
        tmp_path / "e",
    )
    one_line(done, 1, "")
    assert not (tmp_path / "e" / "metrics.json").exists()


def test_k_larger_than_the_dictionary(store: Path, tmp_path: Path) -> None:
    one_line(
        run("train", store, "--d-sae", 16, "--l0", 17, "--out", tmp_path / "run"),
        2,
        "k = 17 is more than the 16 latents",
    )
    assert not (tmp_path / "run").exists()


def test_other_runs_folder_is_refused_and_untouched(store: Path, trained: Path) -> None:
    before = contents(trained)
    one_line(run("train", store, "--d-sae", 32, "--l0", 4, "--out", trained), 1, "holds a run of another configuration")
    assert contents(trained) == before


def test_unwritable_output(store: Path) -> None:
    one_line(
        run("train", store, "--d-sae", 32, "--l0", 4, "--out", "/proc/nowhere/run"),
        1,
        "cannot write to /proc/nowhere/run",
    )


def test_full_disk(place: Path) -> None:
    """A file-size limit stands in for a full disk: writes beyond it fail with an error of the system."""
    arguments = ["saescope", *map(str, harvest(place, place / "full"))]
    limited = "; ".join([
        "import resource, signal, sys",
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))",
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)",
        f"sys.argv = {arguments!r}",
        "from saescope.cli import main",
        "main()",
    ])  # fmt: skip
    done = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True, env=ENVIRONMENT, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot write to" in done.stderr
    assert not (place / "full").exists()


def test_help_has_an_example_for_every_command() -> None:
    commands = ["demo", "fetch", "cache", "harvest", "train", "eval", "doctor"]
    assert all(name in run("--help").stdout for name in commands)
    for name in commands:
        assert f"saescope {name}" in run(name, "--help").stdout.split("Example")[-1], name


def test_no_command_shows_the_help_and_nothing_else() -> None:
    done = run()
    assert done.returncode == 2
    assert "Commands" in done.stdout
    assert "See saescope --help" not in done.stderr


def test_usage_errors_exit_with_two() -> None:
    assert run("train", "--l0").returncode == 2
    one_line(run("train", "--out", "x"), 2, "give a STORE")
    one_line(run("train", "store", "--tokens", 5), 2, "--tokens is for streaming from --model")
    one_line(run("train", "store", "--set", "tied"), 2, "--set takes NAME=VALUE, got 'tied'")


def test_more_than_the_memory_says_how_much() -> None:
    # A petabyte: no machine overcommits it.
    one_line(run("bench", "--d-sae", 10**12), 1, "out of memory: 1,072,883.6 GiB could not be allocated")


@pytest.mark.parametrize("name", ["doctor", "cache"])
def test_a_cache_folder_of_any_name_is_shown_as_it_is(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "[v2][/v1]"
    (folder / "assets" / "[old]").mkdir(parents=True)
    done = run(name, environment={"SAESCOPE_CACHE": str(folder)})
    assert done.returncode == 0, done.stderr
    assert str(folder) in done.stdout
    assert "[old]" in done.stdout


def test_a_terminal_without_the_characters_gets_the_rest(tmp_path: Path) -> None:
    folder = tmp_path / "− 日本"
    done = run("cache", environment={"SAESCOPE_CACHE": str(folder), "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0, done.stderr
    assert "? ??" in done.stdout


def test_doctor_for_machines() -> None:
    done = run("doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["demo_seconds"] > 0
    assert found["kernels"]["cpu"] == "in use"
    assert found["kernels"]["sparse"] == "here"
    # What it advises to install is there to install.
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert set(found["extras"]) == set(project["optional-dependencies"])
