"""A sweep trains and measures every cell once, whatever interrupts it, and its frontiers are the records' own numbers."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import save_file
from tests.measured import POINT, RULE, D, documents, tiny_lm
from tests.training.conftest import MemorySource, planted
from transformers import PreTrainedTokenizerFast

from saescope.errors import OccupiedError, SaescopeError, UsageError
from saescope.evaluation import ActivationCache, Part, Setting
from saescope.evaluation.sweep import Cell, Sources, SweepConfig, frontier_of, sweep
from saescope.reports import write_frontier
from saescope.text import Corpus
from saescope.training import TrainConfig

GRID: dict[str, Any] = {
    "archs": ("topk", "batchtopk"),
    "l0s": (2, 4),
    "d_saes": (32,),
    "seeds": (0,),
    "reads": (POINT,),
    "run": {"batch_size": 128, "held_out_tokens": 256},
    "tokens": 200,
    "ce_tokens": 100,
}
ROWS = planted(rows=2048, width=D)


@dataclasses.dataclass
class Activations(MemorySource):
    """As if harvested from the tiny model."""

    def provenance(self) -> dict[str, Any]:
        return super().provenance() | {"sequences": {"context": 16}, "kept_rule": RULE}


class Watched:
    """Sources that count what is trained, and may stop a run."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.trained: list[str] = []
        self.stop_at = stop_at

    def sources(self, provenance: str = "these") -> Sources:
        return Sources(self.open, {POINT: D}, {"rows": provenance})

    def open(self, config: TrainConfig) -> Activations:
        self.trained += [coder.name for coder in config.coders]
        return Activations(ROWS, {POINT: D}, config.batch_size, held_out=ROWS[:256])

    def watcher(self) -> Any:
        def watch(now: Any) -> None:
            if now.step == self.stop_at:
                raise KeyboardInterrupt

        return watch


@pytest.fixture(scope="module")
def setting(byte_tokenizer: PreTrainedTokenizerFast) -> Setting:
    lm = tiny_lm(byte_tokenizer)
    return Setting(lm, documents(), ActivationCache(lm))


def swept(
    setting: Setting, out: Path, watched: Watched | None = None, memory: int = 2**30, **changed: Any
) -> list[Any]:
    watched = watched or Watched()
    return sweep(SweepConfig(**GRID | changed), watched.sources(), setting, out, memory=memory, watcher=watched.watcher)


def test_every_cell_is_trained_and_measured_at_its_l0(setting: Setting, tmp_path: Path) -> None:
    records = swept(setting, tmp_path / "s")
    assert [record["cell"]["name"] for record in records] == [
        "topk-l0_2-d32-seed0", "topk-l0_4-d32-seed0", "batchtopk-l0_2-d32-seed0", "batchtopk-l0_4-d32-seed0",
    ]  # fmt: skip
    for record in records:
        assert record["coder"]["name"] == record["cell"]["name"]
        assert record["coder"]["architecture"] == record["cell"]["arch"]
        controls = record["controls"]
        assert {"frozen_random", "pca", "neurons"} == set(controls)
        # Controls of equal L0 are the same whatever the architecture; the first one's stand for all.
        measured = record["cell"]["arch"] == "topk"
        assert ("fvu_centered" in controls["frozen_random"]) is measured
        assert measured or "beside topk of seed 0" in controls["neurons"]["absent"]
    (curve,) = [one for one in frontier_of(records) if one.key == "fvu_centered"]
    assert [len(series.places) for series in curve.series if series.label == "frozen random"] == [2]


def test_a_finished_sweep_does_nothing_and_a_larger_one_only_what_is_new(setting: Setting, tmp_path: Path) -> None:
    first, again, larger = Watched(), Watched(), Watched()
    before = swept(setting, tmp_path / "s", first)
    assert len(set(first.trained)) == 4
    assert swept(setting, tmp_path / "s", again) == before
    assert not again.trained
    grown = swept(setting, tmp_path / "s", larger, l0s=(2, 3, 4), seeds=(0, 1))
    assert sorted(larger.trained) == sorted(
        Cell(arch, l0, 32, seed).name
        for arch in GRID["archs"] for l0 in (2, 3, 4) for seed in (0, 1) if seed or l0 == 3
    )  # fmt: skip
    old = [row for row in grown if row["cell"]["seed"] == 0 and row["cell"]["l0"] in (2, 4)]
    # Two seeds can be compared; the rest of the records is as it was.
    stable = [row["parts"].pop("stability") for row in old]
    assert old == before
    assert all(0 <= part["scores"]["share"]["value"] <= 1 for part in stable)
    (curve,) = [one for one in frontier_of(grown) if one.key == "stability.share"]
    assert [series.label for series in curve.series] == ["topk", "batchtopk", "random", "shuffled"]
    assert all(place.interval is not None for place in curve.series[0].places)


def test_fewer_architectures_keep_the_controls(setting: Setting, tmp_path: Path) -> None:
    whole = swept(setting, tmp_path / "s")
    fewer = swept(setting, tmp_path / "s", archs=("batchtopk",))
    assert [row["cell"]["arch"] for row in fewer] == ["batchtopk"] * 2
    assert [row["coder"] for row in fewer] == [row["coder"] for row in whole[2:]]
    for one, other in zip(frontier_of(fewer), frontier_of(whole), strict=True):
        assert [curve for curve in one.series if curve.control] == [curve for curve in other.series if curve.control]
    # What stands on the disk is still each cell's own.
    assert swept(setting, tmp_path / "s") == whole


def test_parts_and_labelled_sets_may_come_later(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []

    def measured(kinds: Any, subjects: Any, given: Setting) -> list[list[Part]]:
        asked.extend((kind.name, subject.name) for kind in kinds for subject in subjects)
        return [[Part(kind.name, kind.title, facts={"tasks": str(given.tasks)}) for kind in kinds] for _ in subjects]

    monkeypatch.setattr("saescope.evaluation.sweep.run.measure_parts", measured)
    grid: dict[str, Any] = {"archs": ("topk",), "l0s": (2,)}
    with_sets = dataclasses.replace(setting, tasks=tmp_path)
    swept(setting, tmp_path / "s", **grid)
    assert not asked
    swept(setting, tmp_path / "s", parts=("probing", "effects"), **grid)
    assert [part for part, _ in asked] == ["probing", "effects"]
    swept(setting, tmp_path / "s", parts=("probing", "effects"), **grid)
    assert len(asked) == 2
    # Labelled sets that were not there before: probing alone is measured again, once.
    for _ in range(2):
        (record,) = swept(with_sets, tmp_path / "s", parts=("probing", "effects"), **grid)
    assert [part for part, _ in asked[2:]] == ["probing"]
    assert record["parts"]["probing"]["facts"]["tasks"] == str(tmp_path)
    # Left out again, what was measured stays.
    assert swept(setting, tmp_path / "s", parts=("probing", "effects"), **grid) == [record]
    assert len(asked) == 3
    # Left out for coders that are new, one table would hold both.
    with pytest.raises(OccupiedError, match=f"differs in tasks: it was probed with {tmp_path}"):
        swept(setting, tmp_path / "s", parts=("probing", "effects"), **grid | {"l0s": (2, 4)})


def test_a_coder_that_died_has_no_stability_and_ends_nothing(setting: Setting, tmp_path: Path) -> None:
    swept(setting, tmp_path / "s", archs=("topk",), l0s=(2,))
    path = tmp_path / "s" / "cells" / "topk-l0_2-d32-seed0.safetensors"
    save_file({"density": torch.zeros(32)}, path)
    records = swept(setting, tmp_path / "s", archs=("topk",), l0s=(2,), seeds=(0, 1))
    for record in records:
        assert record["parts"]["stability"]["absent"].startswith(
            "coder 0 (topk-l0_2-d32-seed0) has no latent that fires"
        )
    assert write_frontier(records, tmp_path / "s")[0].exists()


@pytest.mark.parametrize("stop_at", [1, 9])
def test_interrupted_it_goes_on_to_the_same_numbers(setting: Setting, tmp_path: Path, stop_at: int) -> None:
    # One coder a run, so that a whole run lies behind the interruption too.
    whole = swept(setting, tmp_path / "whole", memory=1)
    stopping = Watched(stop_at)
    with pytest.raises(KeyboardInterrupt):
        swept(setting, tmp_path / "s", stopping, memory=1)
    assert swept(setting, tmp_path / "s", memory=1) == [_same(new, tmp_path / "s") for new in whole]


def _same(record: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A record but for how long measuring took, which the other run has too."""
    path = folder / "cells" / f"{record['cell']['name']}.json"
    seconds = json.loads(path.read_text())["evaluation"]["seconds"]
    return record | {"evaluation": record["evaluation"] | {"seconds": seconds}}


def test_cells_are_grouped_by_memory() -> None:
    config = SweepConfig(**GRID)
    one = 16 * 32 * 2 * D
    sizes = [len(group) for group in config.groups(config.cells(), {POINT: D}, 3 * one)]
    assert sizes == [3, 1]
    assert [len(group) for group in config.groups(config.cells(), {POINT: D}, 1)] == [1, 1, 1, 1]


def test_other_settings_and_other_folders_are_refused_by_name(
    setting: Setting, byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("Other text.")
    swept(setting, tmp_path / "s", archs=("topk",), l0s=(2,))
    with pytest.raises(OccupiedError, match="differs in lr"):
        swept(setting, tmp_path / "s", archs=("topk",), l0s=(2,), lr=1e-3)
    with pytest.raises(OccupiedError, match="differs in the activations"):
        sweep(SweepConfig(**GRID), Watched().sources("others"), setting, tmp_path / "s", memory=1)
    for changed, named in (
        ({"corpus": Corpus.open(str(text))}, r"the text measured on \(corpus\)"),
        ({"lm": tiny_lm(byte_tokenizer, "other", 1)}, "the model's weights"),
        ({"seed": 1}, "the measurement's seed"),
    ):
        with pytest.raises(OccupiedError, match=f"differs in {named} "):
            swept(dataclasses.replace(setting, **changed), tmp_path / "s", archs=("topk",), l0s=(2,))
    with FileLock(tmp_path / "s" / ".lock"), pytest.raises(OccupiedError, match="another process is at work"):
        swept(setting, tmp_path / "s", archs=("topk",), l0s=(2,))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").write_text("x")
    with pytest.raises(OccupiedError, match="is not a sweep"):
        swept(setting, tmp_path / "other")
    with pytest.raises(UsageError, match="names something twice"):
        SweepConfig(**GRID | {"seeds": (0, 0)})
    with pytest.raises(UsageError, match="unknown architecture"):
        SweepConfig(**GRID | {"archs": ("topkk",)})
    with pytest.raises(UsageError, match="k = 64 is more than the 32 latents"):
        SweepConfig(**GRID | {"l0s": (64,)})


def _record(arch: str, l0: float, seed: int, fvu: float, pca: float) -> dict[str, Any]:
    """A record with only what frontiers read."""
    return {
        "cell": {"name": f"{arch}{l0}{seed}", "arch": arch, "l0": l0, "d_sae": 32, "seed": seed},
        "coder": {"l0": l0 + 0.1 * seed, "fvu_centered": fvu, "reads": ["p"], "writes": ["p"]},
        "controls": {"pca": {"fvu_centered": pca, "l0": l0}, "frozen_random": {"absent": "why"}},
        "intervals": {"coder": {"fvu_centered": [fvu - 0.01, fvu + 0.02]}},
        "evaluation": {"model": {"name": "tiny"}, "kept_tokens": 7},
        "parts": {
            "probing": {
                "scores": {
                    "k1": {
                        "value": 1 - fvu,
                        "interval": None,
                        "controls": {"dense": {"value": 0.9, "interval": None}},
                    }
                }
            }
        },
    }


def test_points_are_means_over_seeds_with_students_interval() -> None:
    records = [_record("topk", 8, seed, fvu, 0.5 + fvu) for seed, fvu in enumerate((0.20, 0.22, 0.27))]
    frontiers = {frontier.key: frontier for frontier in frontier_of(records)}
    own, control = frontiers["fvu_centered"].series
    (place,) = own.places
    assert place.value == pytest.approx(0.23)
    assert place.l0 == pytest.approx(8.1)
    spread = math.sqrt(((0.03) ** 2 + 0.01**2 + 0.04**2) / 2)
    assert place.interval == pytest.approx((0.23 - 4.302653 * spread / 3**0.5, 0.23 + 4.302653 * spread / 3**0.5))
    assert (control.label, control.control) == ("pca", True)
    assert control.places[0].value == pytest.approx(0.73)
    assert [series.label for series in frontiers["probing.k1"].series] == ["topk", "dense"]


def test_one_seed_carries_its_own_interval() -> None:
    own = frontier_of([_record("topk", 8, 0, 0.2, 0.5)])[0].series[0]
    assert own.places[0].interval == pytest.approx((0.19, 0.22))


def test_page_picture_and_csv_hold_the_numbers(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>"
    records = [_record(arch, l0, 0, 0.3 / l0, 0.9) for arch in ("topk", "frozen_decoder") for l0 in (8, 16, 32)]
    for record in records:
        record["cell"]["name"] += hostile
    made = write_frontier(records, tmp_path)
    assert [path.name for path in made] == ["frontier.html", "frontier.csv", "frontier.png"]
    page = made[0].read_text()
    assert hostile not in page
    words: list[str] = []
    reader = HTMLParser(convert_charrefs=True)
    reader.handle_data = words.append  # type: ignore[method-assign]
    reader.feed(page)
    text = "".join(words)
    assert hostile in text
    assert "topk from 0.0375 at L0 8 to 0.00937 at 32" in text
    assert "PCA from 0.9 at L0 8" in text
    with made[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["fvu_centered"]) for row in rows[:3]] == [0.3 / 8, 0.3 / 16, 0.3 / 32]
    assert rows[0]["fvu_centered.pca"] == "0.9"
    assert float(rows[0]["probing.k1"]) == pytest.approx(1 - 0.3 / 8)
    assert made[2].read_bytes().startswith(b"\x89PNG")


def test_a_sweep_goes_on_by_the_recipe_it_was_begun_with(setting: Setting, tmp_path: Path) -> None:
    """Defaults change between versions. The first ones recorded only what was given, and knew no `tied`."""
    grid: dict[str, Any] = {"archs": ("topk",), "l0s": (2,)}
    apart = GRID["run"] | {"tied": 0.0}
    swept(setting, tmp_path / "s", **grid, run=apart)
    record, config = tmp_path / "s/sweep.json", tmp_path / "s/runs/0/config.yaml"
    kept = json.loads(record.read_text())
    assert kept["shared"]["run"]["aux_coefficient"] == 0.25, "not given, recorded all the same"
    kept["shared"]["run"] = GRID["run"]
    record.write_text(json.dumps(kept))
    config.write_text(config.read_text().replace("tied: 0.0\n", ""))
    with pytest.raises(OccupiedError, match=r"differs in tied \("):
        swept(setting, tmp_path / "s", **grid, seeds=(0, 1))
    assert len(swept(setting, tmp_path / "s", **grid, seeds=(0, 1), run=apart)) == 2


def test_a_sweep_that_cannot_begin_leaves_no_folder(setting: Setting, tmp_path: Path) -> None:
    for changed, says in (
        ({"run": {"aux_coeff": 0}}, "nearest: aux_coefficient"),
        ({"run": {"batch_size": 10**6}}, "do not fill one batch of 1000000"),
        ({"seeds": (2**70,)}, r"coders\.0\.seed"),
    ):
        with pytest.raises(SaescopeError, match=says) as refused:
            swept(setting, tmp_path / "s", **changed)
        assert "\n" not in str(refused.value)
    assert not (tmp_path / "s").exists()
    for given, says in (({"l0s": ()}, "the sweep's l0s"), ({"lr": -1}, "the sweep's lr: .* got -1")):
        with pytest.raises(UsageError, match=says):
            SweepConfig.from_data(**GRID | given)


def test_a_damaged_record_is_named(setting: Setting, tmp_path: Path) -> None:
    grid: dict[str, Any] = {"archs": ("topk",), "l0s": (2,)}
    swept(setting, tmp_path / "s", **grid)
    (tmp_path / "s/cells/topk-l0_2-d32-seed0.json").write_text('{"cell":')
    with pytest.raises(OccupiedError, match=r"seed0\.json is damaged; delete it to measure that coder again"):
        swept(setting, tmp_path / "s", **grid)
    (tmp_path / "s/sweep.json").write_text("[]")
    with pytest.raises(OccupiedError, match=r"sweep\.json is damaged"):
        swept(setting, tmp_path / "s", **grid)
