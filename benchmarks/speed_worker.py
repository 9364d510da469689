"""saescope's training steps, timed on request; see `peers/timed.py` for the requests.

    python speed_worker.py [--threads 2]

A subject's spec has a kind:

    step     one coder's whole optimiser step, as the trainer takes it: arch, data, point, d_sae, k, batch, seed, dead (share)
    bare     the encoder's product alone, x [batch, d] · Wᵀ [d, d_sae] in bfloat16, its output allocated each time
    text     a training run from a model (`speed_text`)
    forward  the model alone (`speed_text`)
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Before torch, as on the command line: it chooses how torch's threads wait.
import saescope  # noqa: F401

# isort: split
import torch
from torch import Tensor

from saescope.lm import has_native_bf16
from saescope.training import CoderConfig, TrainConfig
from saescope.training.member import Member

sys.path.append(str(Path(__file__).parent / "peers"))
from timed import Subject, serve
from timed_batches import LR, Silenced, batches

# A short run held at its middle: at full learning rate, with L0 steered as in any run, and nothing silent for long enough to
# be dead by itself.
RUN_STEPS = 400
TOP_K = ("topk", "batchtopk", "matryoshka")
LONG_AGO = 10**12


class Step:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.tokens = spec["batch"]
        self._batches = _stored(spec)
        self._batch = next(self._batches)
        rows = self._batch.float().cpu()
        mean = rows.mean(0)
        moments = {"x": (mean, float((rows - mean).pow(2).sum(1).mean()))}
        options = {"k": spec["k"]} if spec["arch"] in TOP_K else {"l0": float(spec["k"])}
        coder = CoderConfig(
            name="x", arch=spec["arch"], d_sae=spec["d_sae"], options=options, reads=("x",), lr=LR, seed=spec["seed"]
        )
        run = TrainConfig(coders=(coder,), batch_size=self.tokens, warmup=0, dead_after=1)
        device = torch.device(spec.get("device", "cpu"))
        selection = torch.bfloat16 if has_native_bf16(device) else torch.float32
        self.member = Member(coder, run, {"x": slice(0, rows.shape[1])}, moments, RUN_STEPS, device, selection)
        self.member.prepare(self._batch)
        self._silenced = Silenced(self.member.coder.W_enc_rows, spec["dead"])
        self._l0 = 0.0
        self._seen: Any = None

    def load(self) -> None:
        self._batch = next(self._batches)
        self._seen = None
        self._silenced.restore()
        silent = torch.zeros_like(self.member.firing.silent)
        silent[: self._silenced.count] = LONG_AGO
        self.member.firing.load_state({"silent": silent, "dead_list": silent.nonzero().squeeze(1)})

    def step(self) -> None:
        self._seen, _ = self.member.step(self._batch, RUN_STEPS // 2)

    def ask(self) -> dict[str, Any]:
        dead = self.member.firing.dead(self.member.dead_horizon)
        return {
            "l0": float(self._seen.done.l0),
            "dead": int(dead.sum()),
            "selection": str(self.member.selection).removeprefix("torch."),
        }


class Bare:
    def __init__(self, spec: dict[str, Any]) -> None:
        self.tokens = spec["batch"]
        self._batches = _stored(spec)
        self._batch = next(self._batches)
        generator = torch.Generator().manual_seed(spec["seed"])
        weight = torch.randn(spec["d_sae"], self._batch.shape[1], generator=generator)
        self._weight = weight.to(spec.get("device", "cpu"), torch.bfloat16)

    def load(self) -> None:
        self._batch = next(self._batches)

    def step(self) -> None:
        self._batch @ self._weight.T

    def ask(self) -> dict[str, Any]:
        return {}


def _stored(spec: dict[str, Any]) -> Iterator[Tensor]:
    """Batches in bfloat16, as saescope's streams give them."""
    return (batch.bfloat16() for batch in batches(spec))


KINDS = {"step": Step, "bare": Bare}


def make(spec: dict[str, Any]) -> Subject:
    if spec["kind"] in ("text", "forward"):
        import speed_text

        return speed_text.make(spec)
    return KINDS[spec["kind"]](spec)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=0, help="default: torch's own choice")
    serve(make, ["saescope"], parser.parse_args().threads)


if __name__ == "__main__":
    main()
