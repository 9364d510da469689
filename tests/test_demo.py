"""The demo, small: the whole way on the real model and text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ARGUMENTS = [
    "--no-serve", "--tokens", "6000", "--d-sae", "512", "--l0", "16", "--passes", "1",
    "--eval-tokens", "512", "--ce-tokens", "512",
]  # fmt: skip


def demo(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "saescope", "demo", "--out", str(out), *ARGUMENTS, *more]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=400, check=False, env=os.environ | {"COLUMNS": "200"}
    )


@pytest.mark.real
def test_demo_makes_what_it_says_and_continues_where_it_was(tmp_path: Path) -> None:
    done = demo(tmp_path / "demo")
    assert done.returncode == 0, done.stderr
    for name in (
        "report/report.html",
        "report/metrics.json",
        "run/coders/batchtopk",
        "run/coders/matryoshka",
        "run/coders/batchtopk/index/labels",
        "store",
    ):
        assert (tmp_path / "demo" / name).exists(), name
        assert str(tmp_path / "demo" / name).removesuffix("/labels") in done.stdout, f"the last lines name {name}"
    assert f"saescope serve {tmp_path / 'demo'}" in done.stdout
    assert "saescope eval" in done.stdout.splitlines()[-2]
    metrics = json.loads((tmp_path / "demo/report/metrics.json").read_text())
    assert [found["coder"]["name"] for found in metrics] == ["batchtopk", "matryoshka"]
    for found in metrics:
        assert found["coder"]["fvu_centered"] < 1
        assert set(found["controls"]) == {"frozen_random", "pca", "neurons"}
    weights = tmp_path / "demo/run/coders/batchtopk/sae_weights.safetensors"
    before = weights.stat().st_mtime_ns
    again = demo(tmp_path / "demo", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["coders"]["batchtopk"].endswith("run/coders/batchtopk")
    assert weights.stat().st_mtime_ns == before, "nothing that was finished is made again"
