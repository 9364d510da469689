"""Checkpoints: all that the next step depends on, written so that a kill at any moment leaves the last one whole."""

from __future__ import annotations

import json
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

import saescope
from saescope.errors import TrainingError
from saescope.kernels import active
from saescope.kernels.chunks import VARIABLE as CHUNK_VARIABLE
from saescope.kernels.chunks import chunk_bytes

STATE = "state.json"
KEPT = 2


def conditions(device: torch.device, selection: torch.dtype) -> dict[str, Any]:
    """What must be the same for a resumed run to be bit-identical to an uninterrupted one."""
    on_cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else on_cpu
    return {
        "selection": str(selection).removeprefix("torch."),
        "chunk": chunk_bytes(device),
        "saescope": saescope.__version__,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "kernels": active(device).name,
        "device": f"{device.type} {place}",
    }


class Checkpoints:
    """The checkpoint folder of a run: `step-00000120/` with a safetensors file a coder and `state.json`, newest two kept."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def save(self, step: int, tensors: dict[str, dict[str, Tensor]], state: dict[str, Any]) -> Path:
        """Write the checkpoint of `step` completed steps, once. Raises `TrainingError` when the disk refuses."""
        target = self.folder / f"step-{step:08d}"
        if (target / STATE).exists():
            return target
        temporary = self.folder / f".writing-{step:08d}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, parts in tensors.items():
                whole = {key: value.detach().cpu().contiguous() for key, value in parts.items()}
                save_file(whole, temporary / f"{name}.safetensors")
            (temporary / STATE).write_text(json.dumps({"step": step, **state}))
            for path in temporary.iterdir():
                _flush(path)
            temporary.rename(target)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise TrainingError(
                f"cannot write a checkpoint to {self.folder}: {error}; free some space and run the "
                "same command, which goes on from the checkpoint before"
            ) from error
        for old in self.paths()[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def paths(self) -> list[Path]:
        """Whole checkpoints, oldest first."""
        if not self.folder.exists():
            return []
        return sorted(path for path in self.folder.glob("step-*") if (path / STATE).exists())

    def newest(self) -> Path | None:
        found = self.paths()
        return found[-1] if found else None

    @staticmethod
    def read_state(path: Path) -> dict[str, Any]:
        try:
            state = json.loads((path / STATE).read_text())
            missing = {"step", "conditions", "source", "seconds"} - set(state)
            if not isinstance(state, dict) or missing:
                raise ValueError(f"{STATE} lacks {', '.join(sorted(missing))}")
        except (OSError, ValueError, TypeError) as error:
            raise TrainingError(
                f"checkpoint {path} is damaged ({error}); delete it to go on from the one before"
            ) from None
        return state

    @staticmethod
    def read_tensors(path: Path, name: str) -> dict[str, Tensor]:
        try:
            return load_file(path / f"{name}.safetensors")
        except (OSError, SafetensorError) as error:
            raise TrainingError(
                f"checkpoint {path} is damaged: {name}.safetensors: {error}; delete it to go on from the one before"
            ) from None

    def clear(self) -> None:
        """Remove all checkpoints: the run is complete and its coders are saved."""
        shutil.rmtree(self.folder, ignore_errors=True)


def refuse_other_conditions(saved: dict[str, Any], here: dict[str, Any], path: Path) -> None:
    """Raise `TrainingError` when a resumed run could not be bit-identical."""
    for key, value in here.items():
        if saved.get(key) != value:
            advice = f"set OMP_NUM_THREADS={saved.get(key)}" if key == "threads" else f"use the same {key}"
            if key == "chunk" and isinstance(saved.get(key), int):
                advice = f"set {CHUNK_VARIABLE}={saved[key] / 2**20:g}"
            raise TrainingError(
                f"{path} was made with {key} {saved.get(key)!r}, this is {value!r}: going on would not give the same "
                f"weights; {advice}, or delete the run's folder to start over"
            )


def _flush(path: Path) -> None:
    """Have the file's bytes on disk before the rename that makes it count."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
