"""Where a run's metrics go: one JSON line at intervals, and TensorBoard or Weights & Biases where asked for."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Protocol

from saescope.errors import UsageError
from saescope.whole_files import write_whole

# Each is also the module and the extra that it needs.
LOGGERS = ("tensorboard", "wandb")


class Logger(Protocol):
    """Takes the metrics of one coder at one step."""

    def log(self, step: int, coder: str, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class JsonLines:
    """`metrics.jsonl`: {"step": …, "tokens": …, "coder": NAME, …} a line, in order, none twice however often resumed."""

    def __init__(self, path: Path, after_step: int) -> None:
        kept = [line for line in read_lines(path) if line["step"] <= after_step]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a")

    def log(self, step: int, coder: str, metrics: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step, "coder": coder, **metrics}) + "\n")
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorBoard:
    """Scalars for TensorBoard under RUN/tensorboard (extra `tensorboard`)."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder))

    def log(self, step: int, coder: str, metrics: dict[str, float]) -> None:
        for key, value in metrics.items():
            self._writer.add_scalar(f"{coder}/{key}", value, step)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """Metrics to Weights & Biases (extra `wandb`), in its own offline mode when WANDB_MODE says so."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(project="saescope", dir=str(folder), name=folder.name, config=config)

    def log(self, step: int, coder: str, metrics: dict[str, float]) -> None:
        self._run.log({f"{coder}/{key}": value for key, value in metrics.items()}, step=step)

    def close(self) -> None:
        self._run.finish()


def require_loggers(names: list[str]) -> None:
    """UsageError where a logger has a name that is not known, or is not installed."""
    unknown = sorted(set(names) - set(LOGGERS))
    if unknown:
        raise UsageError(f"unknown logger {unknown[0]!r}; known: {', '.join(LOGGERS)}")
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise UsageError(f"{name} is not installed; pip install 'saescope[{name}]'")


def open_loggers(names: list[str], folder: Path, after_step: int, config: dict[str, Any]) -> list[Logger]:
    """The JSON lines, and the loggers asked for by name."""
    loggers: list[Logger] = [JsonLines(folder / "metrics.jsonl", after_step)]
    if "tensorboard" in names:
        loggers.append(TensorBoard(folder / "tensorboard"))
    if "wandb" in names:
        loggers.append(WeightsAndBiases(folder, config))
    return loggers


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a metrics file; a line cut short by a kill is dropped."""
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


def thinned(lines: list[dict[str, Any]], coder: str, most: int = 200) -> list[dict[str, float]]:
    """One coder's history in about `most` lines; those with held-out metrics all stay."""
    own = [{key: value for key, value in line.items() if key != "coder"} for line in lines if line["coder"] == coder]
    if len(own) <= most:
        return own
    keep = {i for i, line in enumerate(own) if "held_out_l0" in line} | {0, len(own) - 1}
    stride = max(1, -(-len(own) // max(1, most - len(keep))))
    keep |= set(range(0, len(own), stride))
    return [own[i] for i in sorted(keep)]
