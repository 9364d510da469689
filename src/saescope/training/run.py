"""A training run as a folder: started, resumed or found complete by the same command.

RUN/config.yaml        the resolved configuration
RUN/run.json           what was trained on, under which conditions; `complete` when done
RUN/metrics.jsonl      a line a coder at intervals
RUN/checkpoints/       while it runs
RUN/coders/NAME/       the coders, when done
RUN/coder              the one coder, when there is one (a link to coders/NAME)
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from torch import Tensor

from saescope.activations import ActivationSource
from saescope.coders import SparseCoder, load, save
from saescope.errors import OccupiedError, TrainingError, UsageError, nearest
from saescope.kernels import recycling
from saescope.lm import has_native_bf16
from saescope.lm.identity import comparable
from saescope.training.checkpoint import Checkpoints, conditions
from saescope.training.config import TrainConfig
from saescope.training.journal import open_loggers, read_lines, require_loggers, thinned
from saescope.training.member import Member, Moments
from saescope.training.reference import reference_tensors
from saescope.training.trainer import Trainer, Watcher
from saescope.whole_files import is_unfinished, read_json, write_whole

CONFIG, RUN = "config.yaml", "run.json"
# Rows kept for what is settled before and after training: of sixty hook points of width 576, 7,700 rows.
_SAMPLE_BYTES = 512 * 2**20
# With fewer held-out rows than this, their L0 says less than the training rows' does.
_FEWEST_HELD_OUT = 2048


def train(
    config: TrainConfig,
    source: ActivationSource,
    out: str | Path,
    *,
    device: torch.device | str = "cpu",
    loggers: list[str] | None = None,
    watcher: Watcher | None = None,
) -> dict[str, SparseCoder]:
    """Train the run's coders on `source` and save them under `out`; continues an interrupted run of the same
    configuration, and only loads a complete one. Returns the coders by name, working on raw activations."""
    out, device = Path(out), torch.device(device)
    require_batches(source, config)
    provenance = source.provenance()
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    if not _is_complete(out, config, provenance):
        with _alone(out):
            # Once more: another process may have come to its end here before the folder was locked.
            if not _is_complete(out, config, provenance):
                try:
                    torch.use_deterministic_algorithms(before or config.deterministic, warn_only=warn_only)
                    return _train(config, source, provenance, out, device, loggers or [], watcher)
                finally:
                    torch.use_deterministic_algorithms(before, warn_only=warn_only)
                    recycling.clear()
    return {coder.name: load(out / "coders" / coder.name) for coder in config.coders}


def require_batches(source: ActivationSource, config: TrainConfig) -> None:
    """UsageError unless the source's batches are the configuration's, TrainingError where it has none."""
    if source.batch_size != config.batch_size:
        raise UsageError(
            f"the source gives batches of {source.batch_size} and the configuration says {config.batch_size}; "
            "open the source with batch_size=config.batch_size"
        )
    if source.n_steps < 1:
        raise TrainingError(
            f"the training rows do not fill one batch of {config.batch_size}: harvest more tokens or lower --batch-size"
        )


def _is_complete(out: Path, config: TrainConfig, provenance: dict[str, Any]) -> bool:
    """Whether `out` holds this run, complete; not when nothing is there, or a part of it. `OccupiedError` when `out` holds
    something else."""
    if not out.exists() or _is_free(out, config):
        return False
    if not (out / RUN).exists() or not (out / CONFIG).exists():
        raise OccupiedError(f"{out} exists and is not a training run; choose another --out")
    found = read_json(out / RUN, f"choose another --out or delete {out}")
    if (out / CONFIG).read_text() != config.to_yaml():
        raise OccupiedError(f"{out} holds a run of another configuration (see {out / CONFIG}); choose another --out")
    begun, now = comparable(found.get("source") or {}, json.loads(json.dumps(provenance)))
    if begun != now:
        raise OccupiedError(f"{out} holds a run on other activations (see {out / RUN}); choose another --out")
    return bool(found.get("complete"))


def _claim(out: Path, config: TrainConfig, provenance: dict[str, Any]) -> None:
    """Make a folder, new or of a part of this run, this run's."""
    if _is_free(out, config):
        write_whole(out / CONFIG, config.to_yaml())
        write_whole(out / RUN, json.dumps({"complete": False, "source": provenance}, indent=2))


def _is_free(out: Path, config: TrainConfig) -> bool:
    """Whether a folder has nothing, or no more than a run of this configuration that ended while it began."""
    if not out.is_dir():
        return False
    names = {path.name for path in out.iterdir() if not is_unfinished(path.name, CONFIG, RUN)} - {".lock"}
    return not names or (names == {CONFIG} and (out / CONFIG).read_text() == config.to_yaml())


def _train(
    config: TrainConfig,
    source: ActivationSource,
    provenance: dict[str, Any],
    out: Path,
    device: torch.device,
    logger_names: list[str],
    watcher: Watcher | None,
) -> dict[str, SparseCoder]:
    columns = _columns(source, config)
    moments = _moments(source)
    selection = _selection(config, device)
    members = [Member(coder, config, columns, moments, source.n_steps, device, selection) for coder in config.coders]
    sample = _sample(source, config)
    for member in members:
        member.prepare(sample[: config.batch_size].to(device))
    # Not before: a run that cannot begin leaves nothing, and the folder free for another.
    require_loggers(logger_names)
    _claim(out, config, provenance)
    trainer = Trainer(config, members, source, Checkpoints(out / "checkpoints"), device, watcher)
    done = trainer.resume()
    held_out = source.held_out_rows(config.held_out_tokens).to(device)
    journals = open_loggers(logger_names, out, done, config.model_dump(mode="json"))
    try:
        trainer.run(journals, held_out if held_out.shape[0] else None)
    finally:
        for journal in journals:
            journal.close()
    return _save_all(config, source, provenance, members, trainer, sample, columns, out, device)


def _save_all(
    config: TrainConfig,
    source: ActivationSource,
    provenance: dict[str, Any],
    members: list[Member],
    trainer: Trainer,
    sample: Float[Tensor, "rows d_total"],
    columns: dict[str, slice],
    out: Path,
    device: torch.device,
) -> dict[str, SparseCoder]:
    lines = read_lines(out / "metrics.jsonl")
    source.close()
    means = {point: mean for point, (mean, _) in _moments(source).items()}
    reference = reference_tensors(sample, columns, means)
    calibration, split = _calibration(source, config, sample)
    training = {
        "config": config.model_dump(mode="json"),
        "tokens": trainer.step * config.batch_size,
        "steps": trainer.step,
        "seconds": round(trainer.seconds, 2),
        "conditions": conditions(device, members[0].selection),
        "calibration": {"rows": calibration.shape[0], "split": split},
    }
    finished: dict[str, SparseCoder] = {}
    for member in members:
        held_out = calibration.to(device) if split == "held_out" else None
        coder = member.finished(calibration.to(device), sample.to(device), held_out)
        metadata = coder.metadata
        metadata.model, metadata.corpus = provenance["model"], provenance["corpus"]
        metadata.sequences, metadata.kept_rule = provenance["sequences"], provenance["kept_rule"]
        metadata.trained_documents = provenance["trained_documents"]
        metadata.training |= training | {"coder": member.config.model_dump(mode="json")}
        metadata.history = thinned(lines, member.name)
        own = {part.point for part in (*coder.reads, *coder.writes)}
        kept = {name: value for name, value in reference.items() if name.split(".", 1)[1] in own}
        save(coder, out / "coders" / member.name, reference=kept)
        finished[member.name] = coder
    if len(members) == 1:
        _link(out / "coder", Path("coders") / members[0].name)
    record = {"complete": True, "source": provenance, **training}
    write_whole(out / RUN, json.dumps(record, indent=2))
    trainer.checkpoints.clear()
    return finished


def _sample(source: ActivationSource, config: TrainConfig) -> Float[Tensor, "rows d_total"]:
    """The first batches of the run: shuffled training rows, the same however often the run is resumed."""
    wanted = min(source.n_steps, max(1, _calibration_rows(source, config) // config.batch_size))
    start = source.state_dict()
    batches = []
    for batch in source:
        batches.append(batch.clone())
        if len(batches) == wanted:
            break
    source.load_state_dict(start)
    return torch.cat(batches)


def _calibration_rows(source: ActivationSource, config: TrainConfig) -> int:
    """How many rows settle L0 and principal components: as configured, but no more than _SAMPLE_BYTES in bfloat16."""
    return min(config.calibration_tokens, _SAMPLE_BYTES // (2 * sum(source.widths.values())))


def _calibration(
    source: ActivationSource, config: TrainConfig, sample: Float[Tensor, "rows d_total"]
) -> tuple[Float[Tensor, "rows d_total"], str]:
    """The rows on which L0 is settled, and their split. Held-out ones where there are enough: text that a coder has not
    seen excites more latents, by 5 % on the demo's, and L0 is wanted there."""
    held_out = source.held_out_rows(_calibration_rows(source, config))
    if held_out.shape[0] >= min(_FEWEST_HELD_OUT, sample.shape[0]):
        return held_out, "held_out"
    return sample, "train"


def _columns(source: ActivationSource, config: TrainConfig) -> dict[str, slice]:
    columns, start = {}, 0
    for point in source.points:
        columns[point] = slice(start, start + source.widths[point])
        start += source.widths[point]
    for point in config.points:
        if point not in columns:
            raise UsageError(
                f"hook point {point!r} is not among the activations; they have {', '.join(columns)}"
                f"{nearest(point, columns)}"
            )
    return columns


def _moments(source: ActivationSource) -> Moments:
    return {point: (found.mean, found.mean_square_centered) for point, found in source.statistics().items()}


def _selection(config: TrainConfig, device: torch.device) -> torch.dtype:
    if config.selection == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    return torch.bfloat16 if config.selection == "bfloat16" else torch.float32


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two processes must not train into one folder. A folder made for it goes again where nothing was put into it."""
    new = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"cannot write to {out}: {error.strerror}; choose another --out") from None
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OccupiedError(f"another process is training into {out}; wait for it or choose another --out") from None
    try:
        yield
    finally:
        with suppress(OSError):
            if new and {path.name for path in out.iterdir()} <= {".lock"}:
                # Before it is given up: another process may take it in between.
                (out / ".lock").unlink(missing_ok=True)
                out.rmdir()
        lock.release()


def _link(link: Path, target: Path) -> None:
    """`RUN/coder` points at the one coder; a copy where the system has no links."""
    if link.is_symlink() or link.exists():
        link.unlink() if link.is_symlink() else shutil.rmtree(link)
    try:
        link.symlink_to(target, target_is_directory=True)
    except OSError:
        shutil.copytree(link.parent / target, link)
