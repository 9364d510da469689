"""A training run as its owner sees it: it learns, resumes exactly, refuses what would go wrong, leaves nothing half-made."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.training.conftest import MemorySource, planted
from torch import Tensor

from saescope.coders import (
    Slice,
    SparseCoder,
    architecture_names,
    architecture_type,
    load,
    load_reference,
    make_architecture,
)
from saescope.errors import CoderError, OccupiedError, TrainingError, UsageError
from saescope.lm import has_native_bf16
from saescope.training import CoderConfig, Progress, TrainConfig, resolve, train
from saescope.training.checkpoint import Checkpoints
from saescope.training.initialise import initialise
from saescope.training.optimiser import CoderOptimiser, schedule
from saescope.training.resample import resample


def coder(name: str = "batchtopk", **given: Any) -> CoderConfig:
    arch = given.get("arch", "batchtopk")
    options = {architecture_type(arch).l0_option: 3} | ({"fractions": [0.2, 0.3]} if arch == "matryoshka" else {})
    return CoderConfig(**({"name": name, "d_sae": 40, "options": options, "reads": ("a",), "lr": 1e-2} | given))


def config(*coders: CoderConfig, **given: Any) -> TrainConfig:
    return TrainConfig(**({"coders": coders or (coder(),), "batch_size": 64, "checkpoint_every": 0.1} | given))


def source(**given: Any) -> MemorySource:
    return MemorySource(
        **({"rows": planted(), "widths": {"a": 24}, "passes": 4, "held_out": planted(512, seed=7)} | given)
    )


def weights(folder: Path) -> bytes:
    return (folder / "sae_weights.safetensors").read_bytes()


def test_every_architecture_learns_what_was_planted(tmp_path: Path) -> None:
    names = architecture_names(trainable=True)
    run = train(config(*(coder(name, arch=name) for name in names)), source(), tmp_path / "run")
    held_out = planted(2048, seed=8)
    spread = (held_out - held_out.mean(0)).pow(2).sum()
    for name in names:
        found = run[name]
        codes = found.encode(held_out)
        fvu = float((held_out - found.decode(codes)).pow(2).sum() / spread)
        assert fvu < {"matryoshka": 0.25, "standard": 0.35}.get(name, 0.15), name
        assert codes.nnz / 2048 == pytest.approx(3, abs=0.3), name
        assert torch.equal(load(tmp_path / "run" / "coders" / name)(held_out), found(held_out))
    assert run["matryoshka"].metadata.levels == [8, 20, 40]


@pytest.mark.parametrize("name", architecture_names(trainable=True))
def test_l0_on_held_out_rows_is_what_was_asked_for(name: str, tmp_path: Path) -> None:
    """Settled there, so exact but for ties and rounding; training text would leave a few percent."""
    held_out = planted(2048, seed=7)
    found = train(config(coder(name, arch=name)), source(held_out=held_out, passes=1), tmp_path / "run")[name]
    assert found.encode(held_out).nnz / 2048 == pytest.approx(3, rel=0.01)
    assert found.metadata.training["calibration"] == {"rows": 2048, "split": "held_out"}
    settled = found.metadata.training["settled"]
    assert settled["held_out_l0"] == pytest.approx(3, rel=0.01)
    fvu = (held_out - found(held_out)).pow(2).sum() / (held_out - held_out.mean(0)).pow(2).sum()
    assert settled["held_out_fvu_centered"] == pytest.approx(float(fvu), rel=1e-3)


def test_l0_is_settled_on_training_rows_where_hardly_any_are_held_out(tmp_path: Path) -> None:
    found = train(config(), source(passes=1), tmp_path / "run")["batchtopk"]
    assert found.metadata.training["calibration"] == {"rows": 4096, "split": "train"}


def test_steering_brings_l0_to_the_wanted_in_training(tmp_path: Path) -> None:
    """By the price alone, before anything is settled at the end; a fixed coefficient leaves L0 where it falls."""
    names = ("standard", "gated", "jumprelu")
    for wanted in (2, 5):
        members = [coder(name, arch=name, options={"l0": wanted}) for name in names]
        run = train(config(*members), source(), tmp_path / str(wanted))
        for name in names:
            tail = [line["l0"] for line in run[name].metadata.history[-10:]]
            assert sum(tail) / len(tail) == pytest.approx(wanted, rel=0.1), name
    fixed = train(config(coder(arch="standard", options={"l0": 3, "coefficient": 1e-3})), source(), tmp_path / "fixed")
    held_out = planted(512, seed=7)
    assert fixed["batchtopk"].metadata.history[-1]["l0"] > 4
    assert fixed["batchtopk"].encode(held_out).nnz / 512 > 4, "nor is it settled at the end"


@pytest.mark.parametrize("options", [{"sparsity": "tanh"}, {"control": "quadratic"}, {"coefficient": 1.0}])
def test_jumprelus_other_losses_train(options: dict[str, Any], tmp_path: Path) -> None:
    found = train(config(coder(arch="jumprelu", options={"l0": 3} | options)), source(), tmp_path / "run")["batchtopk"]
    held_out = planted(512, seed=8)
    fvu = float((held_out - found(held_out)).pow(2).sum() / (held_out - held_out.mean(0)).pow(2).sum())
    assert fvu < 0.3
    assert found.extra("threshold").std() > 0.01, "thresholds have learned to differ"


def test_annealing_the_penalty_lowers_the_error(tmp_path: Path) -> None:
    members = [coder(f"p{p}", arch="standard", options={"l0": 3, "p": p}) for p in (1.0, 0.3)]
    run = train(config(*members), source(), tmp_path / "run")
    fvu = {name: found.metadata.history[-1]["held_out_fvu_centered"] for name, found in run.items()}
    assert fvu["p0.3"] < 0.8 * fvu["p1.0"]


def test_folder_holds_what_the_docs_say(tmp_path: Path) -> None:
    train(config(), source(), tmp_path / "run")
    assert {path.name for path in (tmp_path / "run").iterdir()} - {".lock"} == {
        "config.yaml", "run.json", "metrics.jsonl", "coders", "coder"
    }  # fmt: skip
    assert weights(tmp_path / "run" / "coder") == weights(tmp_path / "run" / "coders" / "batchtopk")
    assert TrainConfig.from_yaml(tmp_path / "run" / "config.yaml") == config()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == 256
    assert {"loss", "l0", "fvu", "dead", "held_out_fvu_centered", "held_out_l0", "tokens"} <= set(lines[-1])
    found = load(tmp_path / "run" / "coder")
    assert found.metadata.trained_documents == ["d0"]
    assert found.metadata.history[-1]["step"] == 256
    reference = load_reference(tmp_path / "run" / "coder")
    torch.testing.assert_close(reference["mean.a"], planted().mean(0), rtol=1e-5, atol=1e-4)
    components = reference["components.a"]
    torch.testing.assert_close(components @ components.T, torch.eye(24), rtol=0, atol=1e-5)


class StopHereError(Exception):
    pass


@pytest.mark.parametrize("stop_at", [1, 25])
def test_resumed_run_ends_in_the_same_bits(tmp_path: Path, stop_at: int) -> None:
    # Latents are started again just before the checkpoint that is gone on from.
    both = config(
        *(
            coder(name, arch=name, seed=number, resample=(24 / 64,))
            for number, name in enumerate(architecture_names(trainable=True))
        ),
        checkpoint_every=3 / 64,
        dead_after=0.04,
    )
    train(both, source(passes=1), tmp_path / "whole")

    def stop(now: Progress) -> None:
        if now.step == stop_at:
            raise StopHereError

    with pytest.raises(StopHereError):
        train(both, source(passes=1), tmp_path / "cut", watcher=stop)
    train(both, source(passes=1), tmp_path / "cut")
    for name in architecture_names(trainable=True):
        assert weights(tmp_path / "cut" / "coders" / name) == weights(tmp_path / "whole" / "coders" / name)
    lines = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("cut", "whole")]
    steps = [[(json.loads(line)["step"], json.loads(line)["coder"]) for line in part] for part in lines]
    assert steps[0] == steps[1], "no metrics line is lost or doubled"


class SlowSource(MemorySource):
    """Is asked to stop while its batch of step 5 is awaited: before it is made, or when it has just been counted."""

    counted = False
    # A shell's background job, such as tests may be, starts with the signal ignored.
    outside: Any = signal.default_int_handler

    def __iter__(self) -> Iterator[Tensor]:
        for batch in super().__iter__():
            # Not as the run begins, where the first batches are looked at.
            training = signal.getsignal(signal.SIGINT) is not self.outside
            if training and self.step == 6 and self.counted:
                signal.raise_signal(signal.SIGINT)
            yield batch
            if training and self.step == 5 and not self.counted:
                signal.raise_signal(signal.SIGINT)
                raise AssertionError("waits for the batch")


@pytest.mark.parametrize("counted", [False, True])
def test_an_awaited_batch_is_given_up_and_none_is_left_out(tmp_path: Path, counted: bool) -> None:
    """One that the source has counted is trained on first: the checkpoint would be ahead of the weights."""
    train(config(), source(passes=1), tmp_path / "whole")
    given = source(passes=1)
    slow = SlowSource(given.rows, given.widths, passes=1, held_out=given.held_out)
    slow.counted, slow.outside = counted, signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(config(), slow, tmp_path / "cut")
    newest = Checkpoints(tmp_path / "cut" / "checkpoints").newest()
    assert newest is not None
    assert newest.name == f"step-{5 + counted:08d}"
    train(config(), source(passes=1), tmp_path / "cut")
    assert weights(tmp_path / "cut" / "coder") == weights(tmp_path / "whole" / "coder")


def test_one_coder_does_not_change_its_neighbour(tmp_path: Path) -> None:
    train(config(coder()), source(), tmp_path / "alone")
    train(config(coder("other", seed=5, lr=1e-3), coder()), source(), tmp_path / "together")
    assert weights(tmp_path / "alone/coders/batchtopk") == weights(tmp_path / "together/coders/batchtopk")


def test_several_points_transcoders_and_skip(tmp_path: Path) -> None:
    x = planted()
    y = torch.relu(x @ torch.randn(24, 8, generator=torch.Generator().manual_seed(3))) + 0.1 * x[:, :8]
    rows = MemorySource(torch.cat([x, y], 1), {"mlp_in.1": 24, "mlp_out.1": 8}, passes=4)
    members = (
        coder("sae", reads=("mlp_out.1",)),
        coder("transcoder", reads=("mlp_in.1",), writes=("mlp_out.1",)),
        coder("skipped", reads=("mlp_in.1",), writes=("mlp_out.1",), skip=True),
        coder("both", reads=("mlp_in.1", "mlp_out.1")),
    )
    found = train(config(*members), rows, tmp_path / "run")
    kinds = {name: member.kind for name, member in found.items()}
    assert kinds == {"sae": "sae", "transcoder": "transcoder", "skipped": "skip_transcoder", "both": "crosscoder"}
    spread = (y - y.mean(0)).pow(2).sum()
    fvu = {name: float((y - found[name](x)).pow(2).sum() / spread) for name in ("transcoder", "skipped")}
    assert fvu["skipped"] < fvu["transcoder"] < 0.5


def test_complete_run_is_left_alone(tmp_path: Path) -> None:
    train(config(), source(), tmp_path / "run")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    train(config(), source(), tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"coders": (coder(init="nowhere"),)}, "nowhere"),
        ({"coders": (coder(reads=("b",)),)}, "not among the activations"),
        ({"coders": (coder(resample=(0.05,)),)}, r"nothing is dead before 1,638 tokens of 16,384 \(dead_after 0.1\)"),
        ({"loggers": ["tensorbord"]}, "unknown logger 'tensorbord'"),
        ({"batch_size": 32768}, "do not fill one batch of 32768"),
        ({"source": source(batch_size=32)}, "batches of 32 and the configuration says 64"),
    ],
)
def test_a_run_that_cannot_begin_leaves_no_folder(given: dict[str, Any], says: str, tmp_path: Path) -> None:
    batch_size, loggers = given.get("batch_size", 64), given.pop("loggers", None)
    rows = given.pop("source", None) or source(batch_size=batch_size)
    with pytest.raises((UsageError, TrainingError, CoderError), match=says):
        train(config(*given.pop("coders", ()), **given), rows, tmp_path / "run", loggers=loggers)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "run").mkdir()
    train(config(), source(), tmp_path / "run")


def test_damage_to_a_runs_own_record_is_one_line(tmp_path: Path) -> None:
    train(config(), source(), tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text("[]")
    with pytest.raises(OccupiedError, match=r"run\.json is damaged"):
        train(config(), source(), tmp_path / "run")
    Checkpoints(tmp_path / "points").save(3, {}, {})
    with pytest.raises(TrainingError, match=r"is damaged \(state\.json lacks conditions, seconds, source\)"):
        Checkpoints.read_state(tmp_path / "points" / "step-00000003")


def test_occupied_folders_are_refused(tmp_path: Path) -> None:
    train(config(), source(), tmp_path / "run")
    with pytest.raises(OccupiedError, match="another configuration"):
        train(config(coder(seed=1)), source(), tmp_path / "run")
    with pytest.raises(OccupiedError, match="other activations"):
        train(config(), source(rows=planted(seed=4)), tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").touch()
    with pytest.raises(OccupiedError, match="not a training run"):
        train(config(), source(), tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_non_finite_loss_names_step_and_checkpoint(tmp_path: Path) -> None:
    rows = planted()
    broken = source(rows=rows)
    healthy = broken.statistics()
    rows[100] = torch.nan
    broken.statistics = lambda: healthy  # type: ignore[method-assign]
    with pytest.raises(
        TrainingError, match=r"'batchtopk' has a non-finite loss at step \d+ of 256; (there is|the last)"
    ):
        train(config(), broken, tmp_path / "run")
    for path in Checkpoints(tmp_path / "run" / "checkpoints").paths():
        assert all(torch.isfinite(value).all() for value in load_file(path / "batchtopk.safetensors").values())


def test_other_conditions_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = planted()

    def stop(now: Progress) -> None:
        if now.step == 100:
            raise StopHereError

    with pytest.raises(StopHereError):
        train(config(), source(rows=rows), tmp_path / "run", watcher=stop)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        with pytest.raises(TrainingError, match=f"set OMP_NUM_THREADS={threads}"):
            train(config(), source(rows=rows), tmp_path / "run")
    finally:
        torch.set_num_threads(threads)
    monkeypatch.setenv("SAESCOPE_CHUNK_MIB", "3")
    with pytest.raises(TrainingError, match="set SAESCOPE_CHUNK_MIB=16,"):
        train(config(), source(rows=rows), tmp_path / "run")
    monkeypatch.delenv("SAESCOPE_CHUNK_MIB")
    other = torch.float32 if has_native_bf16(torch.device("cpu")) else torch.bfloat16
    monkeypatch.setattr("saescope.training.run._selection", lambda config, device: other)
    with pytest.raises(TrainingError, match="use the same selection"):
        train(config(), source(rows=rows), tmp_path / "run")


@pytest.mark.parametrize("n_steps", [149, 251])
def test_held_out_rows_are_measured_as_often_as_wanted(n_steps: int, tmp_path: Path) -> None:
    """Also where no step is a multiple of both intervals, that of the metrics and that of held-out rows."""
    rows = source(rows=planted(64 * n_steps), passes=1)
    train(config(log_every=0.03, held_out_every=0.1), rows, tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = [line["step"] for line in lines if "held_out_loss" in line]
    assert measured == [*range(round(0.1 * n_steps), n_steps, round(0.1 * n_steps)), n_steps]


def test_a_run_that_ended_while_it_began_can_be_begun_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(config().to_yaml())
    (tmp_path / "run" / ".run.json.writing").touch()
    train(config(), source(passes=1), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(config(seed=5).to_yaml())
    with pytest.raises(OccupiedError, match="not a training run"):
        train(config(), source(passes=1), tmp_path / "other")


@pytest.mark.parametrize("before", [False, True])
def test_determinism_is_the_runs_alone(before: bool, tmp_path: Path) -> None:
    seen = []
    torch.use_deterministic_algorithms(before)
    try:
        train(
            config(deterministic=True),
            source(passes=1),
            tmp_path / "run",
            watcher=lambda now: seen.append(torch.are_deterministic_algorithms_enabled()),
        )
        assert torch.are_deterministic_algorithms_enabled() is before
    finally:
        torch.use_deterministic_algorithms(False)
    assert set(seen) == {True}


def test_jumprelu_settles_an_l0_that_needs_thresholds_at_zero(tmp_path: Path) -> None:
    """Of more than half of all latents the weakest are hardly above zero, below which a threshold changes nothing: all that
    are positive are active, which here are about as many as wanted."""
    held_out = planted(2048, seed=7)
    wanted = coder("jumprelu", arch="jumprelu", options={"l0": 23})
    found = train(config(wanted), source(held_out=held_out, passes=1), tmp_path / "run")["jumprelu"]
    assert (found.extra("threshold") >= 0).all()
    positive = int((found.centred(held_out) @ found.W_enc + found.b_enc > 0).sum())
    assert found.encode(held_out).nnz == pytest.approx(positive, rel=0.01)
    assert positive / 2048 == pytest.approx(23, rel=0.05)


def test_full_disk_at_a_checkpoint_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("saescope.training.checkpoint.save_file", full)
    with pytest.raises(TrainingError, match="No space left on device; free some space and run the same command"):
        train(config(), source(), tmp_path / "run")
    assert not list((tmp_path / "run" / "checkpoints").glob("*"))


def test_warm_start_begins_where_the_other_ended(tmp_path: Path) -> None:
    train(config(), source(), tmp_path / "first")
    saved = str(tmp_path / "first" / "coder")
    first_lines: dict[str, float] = {}

    def watch(now: Progress) -> None:
        if now.step == 1:
            first_lines.update(now.metrics["batchtopk"])

    train(config(coder(init=saved)), source(), tmp_path / "second", watcher=watch)
    cold = json.loads((tmp_path / "first" / "metrics.jsonl").read_text().splitlines()[0])
    assert first_lines["fvu"] < 0.2 * cold["fvu"]
    with pytest.raises(CoderError, match=r"\(d_in, d_out, d_sae\) is \(24, 24, 40\), this run's is \(24, 24, 41\)"):
        train(config(coder(init=saved, d_sae=41)), source(), tmp_path / "third")


def test_dead_latents_come_back(tmp_path: Path) -> None:
    """Latents pushed far below zero never fire again by themselves; with AuxK, or resampled, they do."""
    train(config(), source(), tmp_path / "first")
    folder = tmp_path / "first" / "coders" / "batchtopk"
    tensors = load_file(folder / "sae_weights.safetensors")
    # Encoder directions that no input excites, for half of the latents.
    tensors["b_enc"][:20] = -10.0
    save_file(tensors, folder / "sae_weights.safetensors")
    dead = {}
    for name, coefficient, parts in (("off", 0.0, ()), ("aux", 1.0, ()), ("resampled", 0.0, (0.2, 0.4))):
        run = config(coder(init=str(folder), resample=parts), aux_coefficient=coefficient, dead_after=0.05)
        found = train(run, source(passes=8), tmp_path / name)["batchtopk"]
        fired = torch.bincount(found.encode(planted(4096)).indices, minlength=40) > 0
        dead[name] = int((~fired[:20]).sum())
    assert dead["aux"] < dead["off"]
    assert dead["resampled"] < dead["off"]


def test_no_two_latents_are_started_again_alike() -> None:
    """More are dead than the batch has tokens, and half of its error is one token's."""
    x = planted(12)
    x[3] *= 10
    one = SparseCoder(
        make_architecture("topk", 40, {"k": 3}), [Slice(point="a", width=24)], [Slice(point="a", width=24)]
    )
    initialise(one, seed=0)
    optimiser = CoderOptimiser(one, 1e-2, betas=(0.9, 0.999), eps=1e-8, clip=1.0)
    before = one.W_dec.detach().clone()
    dead = torch.arange(40) >= 10
    restarted = resample(one, optimiser, x, x, dead, seed=0)
    assert len(restarted) == 12
    assert dead[restarted].all()
    assert len(one.W_dec[restarted].unique(dim=0)) == 12
    untouched = torch.ones(40, dtype=torch.bool).index_fill(0, restarted, False)
    assert torch.equal(one.W_dec[untouched], before[untouched])
    x[5] = torch.nan
    assert len(resample(one, optimiser, x, x, dead, seed=0)) == 12, "the training loop refuses it, with the step"
    assert len(resample(one, optimiser, x, x, torch.ones(40, dtype=torch.bool), seed=0)) == 0


@pytest.mark.parametrize("arch", ["jumprelu", "gated"])
def test_latents_start_again_with_what_their_architecture_has(arch: str) -> None:
    x = planted(200)
    place = [Slice(point="a", width=24)]
    one = SparseCoder(make_architecture(arch, 40, {"l0": 3}), place, place)
    initialise(one, seed=0)
    one.architecture.prepare(one, x, warm=False)
    dead = torch.arange(40) >= 30
    with torch.no_grad():
        for name in one.architecture.extra_parameters():
            one.extra(name).add_(torch.linspace(0, 1, 40))
            one.extra(name)[dead] = 99.0
    resample(one, CoderOptimiser(one, 1e-2, betas=(0.9, 0.999), eps=1e-8, clip=1.0), x, x, dead, seed=0)
    for name in one.architecture.extra_parameters():
        share = 1.0 if name == "r_mag" else 0.2
        expected = share * one.extra(name)[~dead].mean()
        torch.testing.assert_close(one.extra(name)[dead], expected.expand(10), msg=name)


@pytest.mark.parametrize(("warmup", "decay"), [(0.05, 0.2), (0.0, 0.0), (0.3, 0.7), (0.0, 1.0)])
def test_schedule(warmup: float, decay: float) -> None:
    shares = [schedule(step, 100, warmup, decay) for step in range(100)]
    assert all(0 < share <= 1 for share in shares)
    assert max(shares) == pytest.approx(1, abs=0.02)
    peak = shares.index(max(shares))
    assert shares[: peak + 1] == sorted(shares[: peak + 1])
    assert shares[peak:] == sorted(shares[peak:], reverse=True)
    assert (shares[-1] < 0.1) == (decay > 0)


def test_configuration_round_trip_and_refusals(tmp_path: Path) -> None:
    whole = config(coder(), coder("b", arch="matryoshka"), passes=2.5)
    path = tmp_path / "c.yaml"
    path.write_text(whole.to_yaml())
    assert TrainConfig.from_yaml(path) == whole
    over = resolve(path, {"passes": 1, "seed": None}, {"lr": 0.5})
    assert over.passes == 1
    assert {member.lr for member in over.coders} == {0.5}
    grid = resolve(None, {}, {"d_sae": 64}, archs=["batchtopk", "matryoshka"], l0s=[4, 8], available=["p.1"])
    assert [member.name for member in grid.coders] == [
        f"{arch}-l0-{l0}" for arch in ("batchtopk", "matryoshka") for l0 in (4, 8)
    ]
    each = resolve(None, {"resample": [0.5], "lr": 0.1}, {"lr": 0.2}, archs=["topk", "gated"], available=["p.1"])
    assert [(member.resample, member.lr) for member in each.coders] == [((0.5,), 0.2)] * 2
    for text, says in (
        ("batch_sise: 3\ncoders: []", "nearest: batch_size"),
        ("sead: 3\ncoders: []", "nearest: seed"),
        ("resample: [0.5]\ncoders: []", "a setting of a coder, under coders:"),
        ("coders: [{name: a, reads: [p.1], sead: 3}]", "coders.0.sead.*nearest: seed"),
        ("coders: 3", "coders"),
        ("- 1", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("\xff", "is not YAML"),
        ("coders: []\npasses: .inf", "passes: input should be a finite number"),
        (f"coders: []\nseed: {2**70}", "seed: input should be less than 4294967296"),
        (
            "coders: [{name: a, reads: [p.1], skip: true}]",
            r"reads and writes p\.1, which a skip connection would only copy",
        ),
    ):
        path.write_text(text, "latin-1")
        with pytest.raises(UsageError, match=says) as error:
            TrainConfig.from_yaml(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"k = 50 is more than the 40 latents"):
        coder(options={"k": 50})
    for name in ("", "../up", "a/b", ".hidden", "c:x"):
        with pytest.raises(UsageError, match="becomes a folder's name"):
            coder(name)
    for betas in ((1.0, 0.9), (0.9, -0.1)):
        with pytest.raises(UsageError, match="betas must be at least 0"):
            config(betas=betas)
    with pytest.raises(UsageError, match="'x' is not among the activations; they have a"):
        train(config(coder(reads=("x",))), source(), tmp_path / "run")
