"""A sweep as a folder: trained, measured and drawn by one command, which goes on where it was stopped.

SWEEP/sweep.json         what all cells share: settings, activations, the model and text they are measured with
SWEEP/runs/N/            a training run of as many cells as fit the memory (see `training.run`)
SWEEP/cells/NAME.json    a cell's evaluation; NAME.safetensors: its latents' densities
SWEEP/stability/*.json   of cells that differ in their seed only
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from safetensors.torch import load_file
from safetensors.torch import save as save_tensors

from saescope.activations import ActivationSource
from saescope.coders import load
from saescope.errors import OccupiedError, SaescopeError
from saescope.evaluation.run import evaluate
from saescope.evaluation.setting import Setting
from saescope.evaluation.stability import compared
from saescope.evaluation.subject import Subject
from saescope.evaluation.suite import chosen_parts, measure_parts
from saescope.evaluation.sweep.grid import FROZEN_DECODER, Cell, SweepConfig
from saescope.lm.identity import comparable
from saescope.progress import Progress
from saescope.text import Corpus
from saescope.training import TrainConfig, Watcher, require_batches, train
from saescope.whole_files import read_json, write_json, write_whole

SWEEP, RUNS, CELLS, STABILITY = "sweep.json", "runs", "cells", "stability"
PROBING = "probing"
# Coders measured together share the runs of the original model; each takes memory for its controls.
_TOGETHER = 8


@dataclass(frozen=True)
class Sources:
    """Where a sweep's batches come from. open: a fresh source for a run's configuration, closed by the sweep. widths: of the
    hook points. provenance: what must be the same when the sweep goes on."""

    open: Callable[[TrainConfig], ActivationSource]
    widths: dict[str, int]
    provenance: dict[str, Any]


def sweep(
    config: SweepConfig,
    sources: Sources,
    setting: Setting,
    out: str | Path,
    *,
    memory: int,
    device: str = "cpu",
    watcher: Callable[[], Watcher] | None = None,
    told: Callable[[dict[str, Any]], None] | None = None,
) -> list[dict[str, Any]]:
    """Train and measure every cell that is not yet in `out`, and the parts that its cells lack; returns the records of all
    cells, in the grid's order.

    `setting`: model, text and shared activations of the measurement. `memory`: bytes for weights, gradients and moments of
    coders trained together. `watcher`: makes a watcher for each training run. `told`: each record as it comes.
    OccupiedError where `out` holds something else, a sweep of other settings, or one that another process is at work on.
    """
    out = Path(out)
    if not (out / SWEEP).exists():
        # Before the folder is taken.
        training = config.training(config.cells()[:1])
        with closing(sources.open(training)) as source:
            require_batches(source, training)
    _claim(out, config, setting, sources.provenance)
    lock = FileLock(out / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OccupiedError(f"another process is at work on {out}; wait for it or choose another --out") from None
    try:
        return _sweep(config, sources, setting, out, memory, device, watcher, told)
    finally:
        lock.release()


def _sweep(
    config: SweepConfig,
    sources: Sources,
    setting: Setting,
    out: Path,
    memory: int,
    device: str,
    watcher: Callable[[], Watcher] | None,
    told: Callable[[dict[str, Any]], None] | None,
) -> list[dict[str, Any]]:
    cells = config.cells()
    wanted = {cell.name for cell in cells}
    for folder in _runs(out):
        if _complete(folder):
            continue
        # An interrupted run goes on as it was begun, even if this command's grid no longer has all its cells.
        own = TrainConfig.from_yaml(folder / "config.yaml")
        if wanted & {coder.name for coder in own.coders}:
            _train(own, sources, folder, device, watcher)
            _measure_missing(config, cells, setting, out, told)
    trained = _trained(out)
    missing = [cell for cell in cells if cell.name not in trained]
    for group in config.groups(missing, sources.widths, memory):
        _train(config.training(group), sources, out / RUNS / str(_next(out)), device, watcher)
        _measure_missing(config, cells, setting, out, told)
    _measure_missing(config, cells, setting, out, told)
    records = {cell: _record(out, cell) for cell in cells}
    for same, part in _stability(cells, setting, out).items():
        for cell in same:
            records[cell]["parts"]["stability"] = part
    _lend_controls(list(records.values()), out)
    return list(records.values())


def _claim(out: Path, config: SweepConfig, setting: Setting, provenance: dict[str, Any]) -> None:
    now = json.loads(json.dumps(_request(config, setting, provenance)))
    record = out / SWEEP
    if record.exists():
        found = read_json(record, f"choose another --out or delete {out}")
        if differing := _differences(found, now, out):
            raise OccupiedError(
                f"{out} holds a sweep that differs in {', '.join(differing)} (see {record}); choose another --out"
            )
        _refuse_fewer_sets(config, setting, out)
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OccupiedError(f"{out} exists and is not a sweep; choose another --out")
    try:
        (out / CELLS).mkdir(parents=True, exist_ok=True)
        (out / RUNS).mkdir(exist_ok=True)
        write_json(record, now)
    except OSError as error:
        raise SaescopeError(f"cannot write to {out}: {error.strerror or error}; choose another --out") from None


def _request(config: SweepConfig, setting: Setting, provenance: dict[str, Any]) -> dict[str, Any]:
    """What all commands of one sweep have in common: numbers of one table are of one model, text and setting."""
    model = setting.lm.identity()
    return {
        "shared": config.shared(),
        "source": provenance,
        "model": {key: model[key] for key in ("weights", "tokenizer", "dtype")},
        "corpus": setting.corpus.identity() if isinstance(setting.corpus, Corpus) else {},
        "seed": setting.seed,
    }


def _differences(found: dict[str, Any], now: dict[str, Any], out: Path) -> list[str]:
    """What differs, by name."""
    # What the version that began the sweep did not record is taken to be as now.
    found, now = comparable({**now, **found}, now)
    recipe = now["shared"]["run"]
    trained = _recipe_of(found["shared"]["run"], recipe, out)
    differing = [key for key in {**trained, **recipe} if trained.get(key) != recipe.get(key)]
    was, shared = found["shared"] | {"run": {}}, now["shared"] | {"run": {}}
    differing += [key for key in {**was, **shared} if was.get(key) != shared.get(key)]
    was, model = found["model"], now["model"]
    differing += [f"the model's {key}" for key in model if was.get(key) != model[key]]
    names = {"source": "the activations", "corpus": "the text measured on (corpus)", "seed": "the measurement's seed"}
    return differing + [name for key, name in names.items() if found[key] != now[key]]


def _recipe_of(recorded: dict[str, Any], now: dict[str, Any], out: Path) -> dict[str, Any]:
    """All settings that a sweep was begun with. Earlier versions recorded those alone that were given; the others stand in
    the configuration of its first run, but for `tied`, which there was none of."""
    began: dict[str, Any] = {}
    if now.keys() - recorded.keys() and (runs := _runs(out)):
        began = {"tied": 0.0} | yaml.safe_load((runs[0] / "config.yaml").read_text())
    return {key: recorded.get(key, began.get(key, value)) for key, value in now.items()} | recorded


def _refuse_fewer_sets(config: SweepConfig, setting: Setting, out: Path) -> None:
    """OccupiedError where some cells were probed with labelled sets and others would now be without."""
    if setting.tasks is not None or PROBING not in config.parts:
        return
    cells = [_record_path(out, cell) for cell in config.cells()]
    records = [json.loads(path.read_text()) if path.exists() else {"parts": {}} for path in cells]
    with_sets = next((record["tasks"] for record in records if record.get("tasks")), None)
    if with_sets and any(PROBING not in record["parts"] for record in records):
        raise OccupiedError(
            f"{out} holds a sweep that differs in tasks: it was probed with {with_sets}; give --tasks again"
        )


def _runs(out: Path) -> list[Path]:
    """The folders of training runs that were begun."""
    found = [folder for folder in (out / RUNS).iterdir() if folder.name.isdigit() and (folder / "config.yaml").exists()]
    return sorted(found, key=lambda folder: int(folder.name))


def _complete(folder: Path) -> bool:
    try:
        return bool(json.loads((folder / "run.json").read_text()).get("complete"))
    except (OSError, ValueError):
        return False


def _next(out: Path) -> int:
    return max((int(folder.name) for folder in (out / RUNS).iterdir() if folder.name.isdigit()), default=-1) + 1


def _trained(out: Path) -> dict[str, Path]:
    """The folder of every finished coder, by its cell's name."""
    return {path.name: path for folder in _runs(out) for path in (folder / "coders").glob("*") if path.is_dir()}


def _train(
    config: TrainConfig,
    sources: Sources,
    folder: Path,
    device: str,
    watcher: Callable[[], Watcher] | None,
) -> None:
    source = sources.open(config)
    try:
        train(config, source, folder, device=device, watcher=None if watcher is None else watcher())
    finally:
        source.close()


def _measure_missing(
    config: SweepConfig,
    cells: Sequence[Cell],
    setting: Setting,
    out: Path,
    told: Callable[[dict[str, Any]], None] | None,
) -> None:
    trained = _trained(out)
    waiting = [cell for cell in cells if cell.name in trained and not _record_path(out, cell).exists()]
    done = 0
    for part, no_controls in _together(config, waiting):
        found = evaluate(
            [Subject.of(trained[cell.name]) for cell in part],
            setting.lm,
            setting.corpus,
            max_tokens=config.tokens,
            ce_tokens=config.ce_tokens,
            n_contexts=1,
            seed=setting.seed,
            no_controls=no_controls,
            progress=_of(setting.progress, done, len(waiting)),
        )
        done += len(part)
        for cell, one in zip(part, found, strict=True):
            record = one.to_dict() | {"cell": vars(cell) | {"name": cell.name}}
            density = {"density": one.density.float().contiguous()}
            write_whole(out / CELLS / f"{cell.name}.safetensors", save_tensors(density))
            write_json(_record_path(out, cell), record)
            if told is not None:
                told(record)
    _measure_missing_parts(config, [cell for cell in cells if cell.name in trained], trained, setting, out)


def _together(config: SweepConfig, cells: Sequence[Cell]) -> Iterator[tuple[Sequence[Cell], str]]:
    """Cells to be measured at once, and why without controls. Controls follow from L0 and width, so those of the first
    architecture's first seed stand for all; three more for every coder would be three quarters of the time."""
    first = [cell for cell in cells if (cell.arch, cell.seed) == (config.archs[0], config.seeds[0])]
    rest = [cell for cell in cells if cell not in first]
    why = f"measured once for each L0 and width, beside {config.archs[0]} of seed {config.seeds[0]}"
    for group, no_controls in ((first, ""), (rest, why)):
        for start in range(0, len(group), _TOGETHER):
            yield group[start : start + _TOGETHER], no_controls


def _measure_missing_parts(
    config: SweepConfig, cells: Sequence[Cell], trained: dict[str, Path], setting: Setting, out: Path
) -> None:
    """Parts of the suite that a cell's record lacks, because they were asked for later."""
    tasks = None if setting.tasks is None else str(setting.tasks)
    # Stability is of several cells together; see `_stability`.
    for kind in (kind for kind in chosen_parts(config.parts) if kind.name != STABILITY):
        records = {cell: _record(out, cell) for cell in cells}
        waiting = [cell for cell, record in records.items() if _lacks(record, kind.name, tasks)]
        for start in range(0, len(waiting), _TOGETHER):
            group = waiting[start : start + _TOGETHER]
            told = _of(setting.progress, start, len(waiting))
            found = measure_parts(
                [kind], [Subject.of(trained[cell.name]) for cell in group], replace(setting, progress=told)
            )
            for cell, (part,) in zip(group, found, strict=True):
                records[cell]["parts"][kind.name] = part.to_dict()
                if kind.name == PROBING:
                    records[cell]["tasks"] = tasks
                write_json(_record_path(out, cell), records[cell])


def _lacks(record: dict[str, Any], part: str, tasks: str | None) -> bool:
    """Whether a part is to be measured: it was not, or it is probing and there are labelled sets that it was not asked for."""
    if part not in record["parts"]:
        return True
    return part == PROBING and tasks is not None and record.get("tasks") != tasks


def _record(out: Path, cell: Cell) -> dict[str, Any]:
    return read_json(_record_path(out, cell), "delete it to measure that coder again")


def _record_path(out: Path, cell: Cell) -> Path:
    return out / CELLS / f"{cell.name}.json"


def _stability(cells: Sequence[Cell], setting: Setting, out: Path) -> dict[tuple[Cell, ...], dict[str, Any]]:
    """For cells that differ in their seed only, the record of how far they agree; measured anew when seeds were added."""
    groups: dict[tuple[str, float, int], list[Cell]] = {}
    for cell in cells:
        # With a decoder that stays as the seed drew it, agreement means nothing.
        if cell.arch != FROZEN_DECODER:
            groups.setdefault((cell.arch, cell.l0, cell.d_sae), []).append(cell)
    several = {key: tuple(group) for key, group in groups.items() if len(group) > 1}
    trained = _trained(out)
    found = {}
    for number, ((arch, l0, d_sae), group) in enumerate(several.items()):
        setting.progress("stability", number, len(several))
        path = out / STABILITY / f"{arch}-l0_{l0:g}-d{d_sae}.json"
        seeds = [cell.seed for cell in group]
        kept = json.loads(path.read_text()) if path.exists() else {}
        if kept.get("seeds") != seeds:
            coders = [load(trained[cell.name]) for cell in group]
            densities = [load_file(out / CELLS / f"{cell.name}.safetensors")["density"] for cell in group]
            kept = {"seeds": seeds, "part": compared(coders, densities, setting).to_dict()}
            path.parent.mkdir(exist_ok=True)
            write_json(path, kept)
        found[group] = kept["part"]
    return found


def _lend_controls(records: Sequence[dict[str, Any]], out: Path) -> None:
    """Where this command's cells of an L0 and a width have no controls, because they were measured beside an architecture or a
    seed that is now left out, the first of them gets those."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        cell = record["cell"]
        groups.setdefault(f"*-l0_{cell['l0']:g}-d{cell['d_sae']}-seed*.json", []).append(record)
    for pattern, group in groups.items():
        if any(map(_has_controls, group)):
            continue
        others = (json.loads(path.read_text()) for path in sorted((out / CELLS).glob(pattern)))
        if lender := next(filter(_has_controls, others), None):
            group[0]["controls"] = lender["controls"]
            group[0]["intervals"] |= {
                name: lender["intervals"][name] for name in lender["intervals"] if name != "coder"
            }


def _has_controls(record: dict[str, Any]) -> bool:
    return any("absent" not in control for control in record["controls"].values())


def _of(progress: Progress, start: int, total: int) -> Progress:
    return lambda stage, done, of: progress(f"{stage} ({start + 1}– of {total})", done, of)
