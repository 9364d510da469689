"""A store holds the model's own values, survives kills, and refuses what cannot work without leaving anything."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from saescope.activations import ModelStream, Plan, Progress, Store, harvest
from saescope.activations.location import Digest, Location
from saescope.errors import ModelError, OccupiedError, StoreError, TextError, UsageError
from saescope.lm import LanguageModel
from saescope.text import Corpus, SequenceOptions, split_of

Make = Callable[..., Store]
Content = Callable[[Path], dict[str, bytes]]


def all_rows(store: Store, point: str) -> torch.Tensor:
    return torch.cat([shard.activations[point] for shard in store.shards()])


def test_rows_are_the_models_own_values_at_their_sequence_and_position(
    lm: LanguageModel, make: Make, tmp_path: Path
) -> None:
    store = make(tmp_path / "s", store_dtype="float32")
    for shard in store.shards():
        for row in range(0, shard.n_rows, 37):
            tokens = store.sequence(int(shard.sequence[row]))
            position = int(shard.position[row])
            assert int(tokens[position]) == int(shard.token[row])
            values = lm.run(tokens[None].long(), capture=list(store.points)).activations
            for point in store.points:
                torch.testing.assert_close(shard.activations[point][row], values[point][0, position])


def test_every_token_is_a_row_or_counted_as_left_out(lm: LanguageModel, store: Store) -> None:
    seen = {"train": 0, "held_out": 0}
    for shard in store.shards():
        for number, tokens in enumerate(shard.sequences):
            rows = shard.sequence == shard.sequence_ids[number]
            positions = shard.position[rows]
            assert positions.unique().numel() == positions.numel()
            missing = set(range(32)) - set(positions.tolist())
            assert all(int(tokens[p]) in lm.special_ids for p in missing)
            assert not any(int(t) in lm.special_ids for t in shard.token[rows])
        for split in seen:
            seen[split] += int(shard.in_split(split).sum())
    counts = store.manifest.counts
    assert seen == {split: counts[split].rows for split in seen}
    for split in counts.values():
        assert split.tokens == split.rows + split.special + split.sink_any
        assert split.special > 0
    assert sum(split.tokens for split in counts.values()) >= 3000
    assert store.n_rows == sum(seen.values())


def test_rows_know_their_document_and_documents_never_cross_splits(store: Store) -> None:
    documents = store.documents
    n_tokens = np.zeros(len(documents), dtype=int)
    for shard in store.shards():
        in_train = shard.in_split("train")
        for document in shard.document.unique().tolist():
            rows = shard.document == document
            assert split_of(documents[document].id, 0.25) == documents[document].split
            assert bool(in_train[rows].all()) == (documents[document].split == "train")
            n_tokens[document] += int(rows.sum())
    assert n_tokens.tolist() == [document.harvested_tokens for document in documents]
    trained = {document.id for document, n in zip(documents, n_tokens, strict=True) if n and document.split == "train"}
    assert set(store.trained_documents) == trained


def test_statistics_are_those_of_the_training_rows(store: Store) -> None:
    is_train = torch.cat([shard.in_split("train") for shard in store.shards()])
    for point, found in store.statistics().items():
        rows = all_rows(store, point)[is_train].double()
        assert found.n_rows == len(rows)
        torch.testing.assert_close(found.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
        centred = rows - rows.mean(0)
        assert found.mean_square_centered == pytest.approx(float(centred.square().sum(1).mean()), rel=1e-10)
        assert found.mean_square == pytest.approx(float(rows.square().sum(1).mean()), rel=1e-10)


def test_a_constructed_sink_is_left_out_and_counted(
    fresh_lm: LanguageModel, store: Store, make: Make, tmp_path: Path
) -> None:
    victim = int(store.shard(0).token[0])
    with torch.no_grad():
        fresh_lm.hf_model.get_input_embeddings().weight[victim] *= 1000  # type: ignore[operator]
    sunk = make(tmp_path / "s", lm=fresh_lm)
    times = sum(int((shard.sequences == victim).sum()) for shard in sunk.shards())
    assert times > 0
    assert sum(counts.sink["resid_post.0"] for counts in sunk.manifest.counts.values()) == times
    assert not any(bool((shard.token == victim).any()) for shard in sunk.shards())


def test_several_points_in_one_pass_equal_each_alone(make: Make, store: Store, tmp_path: Path) -> None:
    for point in store.points:
        alone = make(tmp_path / point, [point])
        torch.testing.assert_close(all_rows(alone, point), all_rows(store, point), rtol=0, atol=0)


def test_one_sequence_per_document_is_padded_and_padding_is_not_stored(
    lm: LanguageModel, make: Make, tmp_path: Path
) -> None:
    ragged = SequenceOptions(context=48, packed=False)
    store = make(tmp_path / "s", options=ragged, store_dtype="float32", batch_tokens=192)
    lengths = [int((tokens >= 0).sum()) for shard in store.shards() for tokens in shard.sequences]
    assert min(lengths) < 48
    assert sum(lengths) == sum(counts.tokens for counts in store.manifest.counts.values())
    shard = store.shard(0)
    for row in range(0, shard.n_rows, 41):
        tokens = store.sequence(int(shard.sequence[row]))
        alone = lm.run(tokens[None].long(), capture=["mlp_out.1"]).activations["mlp_out.1"]
        torch.testing.assert_close(shard.activations["mlp_out.1"][row], alone[0, int(shard.position[row])])


# --- interrupted ---------------------------------------------------------------------------------------------------------

CHILD = """
import sys, time, torch
from saescope.activations import Progress, harvest
from saescope.lm import LanguageModel
from saescope.text import Corpus, SequenceOptions
torch.set_num_threads(1)
model, text, out = sys.argv[1:]
def tell(event):
    if isinstance(event, Progress):
        print(event.shards, flush=True)
        time.sleep(0.05)
harvest(LanguageModel.load(model, dtype="float32", device="cpu"), Corpus.open(text), ["resid_post.0", "mlp_out.1"], out,
        tokens=3000, options=SequenceOptions(context=32, held_out=0.25), batch_tokens=128, shard_tokens=512, progress=tell)
"""


def test_killed_and_continued_gives_the_same_bytes(
    lm: LanguageModel, make: Make, text_file: Path, content: Content, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    lm.hf_model.save_pretrained(model)  # type: ignore[operator]
    lm.tokenizer.save_pretrained(model)

    out = tmp_path / "killed"
    child = [sys.executable, "-c", CHILD, str(model), str(text_file), str(out)]
    with subprocess.Popen(child, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 2:
                process.send_signal(signal.SIGKILL)
                break
    assert process.returncode == -signal.SIGKILL
    with pytest.raises(StoreError, match="incomplete"):
        Store.open(out)
    before = {path.name: path.stat().st_mtime_ns for path in (out / "shards").glob("*.safetensors")}
    assert {"00000.safetensors", "00001.safetensors"} <= before.keys()

    loaded = LanguageModel.load(str(model), dtype="float32", device="cpu")
    make(out, lm=loaded).verify()
    make(tmp_path / "whole", lm=loaded)
    assert content(out) == content(tmp_path / "whole")
    after = {path.name: path.stat().st_mtime_ns for path in (out / "shards").glob("0000[01].safetensors")}
    assert after == {name: before[name] for name in after}


def stopping_after(shards: int) -> Callable[[Plan | Progress], None]:
    def listen(event: Plan | Progress) -> None:
        if isinstance(event, Progress) and event.shards >= shards:
            raise KeyboardInterrupt

    return listen


def counting(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of tokens of every later run."""
    runs: list[int] = []
    run = lm.run

    def counted(tokens: torch.Tensor, **given: Any) -> Any:
        runs.append(tokens.numel())
        return run(tokens, **given)

    monkeypatch.setattr(lm, "run", counted)
    return runs


@pytest.mark.parametrize("shards", [0, 1, 3, 6])
def test_interrupted_anywhere_and_continued_gives_the_same_bytes(
    shards: int, make: Make, store: Store, content: Content, tmp_path: Path
) -> None:
    assert store.n_shards == 6
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", progress=stopping_after(shards))
    make(tmp_path / "s")
    assert content(tmp_path / "s") == content(Path(store.path))


def test_whole_shards_are_not_run_again(
    lm: LanguageModel, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", progress=stopping_after(4))
    kept = len(list((tmp_path / "s" / "shards").iterdir()))
    runs = counting(lm, monkeypatch)
    plans: list[Plan] = []
    store = make(tmp_path / "s", progress=lambda event: plans.append(event) if isinstance(event, Plan) else None)
    left = sum(s.train.tokens + s.held_out.tokens for s in store.manifest.shards[kept:])
    warm_up = 16
    assert sum(runs) == left + warm_up
    assert plans[0].tokens_done == sum(s.train.tokens + s.held_out.tokens for s in store.manifest.shards[:kept])


def test_a_half_written_shard_is_written_again(make: Make, store: Store, content: Content, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", progress=stopping_after(2))
    shards = tmp_path / "s" / "shards"
    n = len(list(shards.iterdir()))
    (shards / f"{n:05d}.safetensors").write_bytes(b"a shard the manifest does not know")
    (shards / f"{n:05d}.safetensors.partial").write_bytes(b"half")
    make(tmp_path / "s")
    assert content(tmp_path / "s") == content(Path(store.path))


def test_a_complete_store_is_left_as_it_is(
    lm: LanguageModel, make: Make, tmp_path: Path, content: Content, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "s")
    before = content(tmp_path / "s")
    runs = counting(lm, monkeypatch)
    make(tmp_path / "s")
    assert runs == []
    assert content(tmp_path / "s") == before


def test_a_harvest_begun_under_an_older_fingerprint_goes_on(make: Make, tmp_path: Path) -> None:
    """Nothing can be said of such weights, so they are taken to be the same; the shards belong to the store as it was begun."""
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", progress=stopping_after(1))
    # Before a shard is written, the request in the manifest is all that names the store.
    record = tmp_path / "s" / "manifest.json"
    begun = json.loads(record.read_text())
    begun["shards"], begun["request"]["model"]["weights"] = [], "0" * 64
    record.write_text(json.dumps(begun))
    store = make(tmp_path / "s")
    assert store.manifest.request.model["weights"] == "0" * 64
    assert store.shard(0).sequence_ids.numel()


def test_another_arithmetic_does_not_continue(make: Make, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "s", progress=stopping_after(1))
    torch.set_num_threads(2)
    try:
        with pytest.raises(OccupiedError, match="begun with threads 1 and this is 2"):
            make(tmp_path / "s")
    finally:
        torch.set_num_threads(1)
    assert make(tmp_path / "s").n_shards == 6


# --- refused -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tokens": 2000}, "tokens"),
        ({"points": ["resid_post.0"]}, "points"),
        ({"points": ["mlp_out.1", "resid_post.0"]}, "points"),
        ({"store_dtype": "float32"}, "store_dtype"),
        ({"options": SequenceOptions(context=16)}, "sequences"),
    ],
)
def test_a_folder_with_another_harvest_is_occupied(
    changes: dict[str, Any], named: str, make: Make, store: Store
) -> None:
    with pytest.raises(OccupiedError, match=f"another harvest .different .*{named}"):
        make(store.path, **changes)


def test_a_folder_with_anything_else_is_occupied_and_untouched(make: Make, tmp_path: Path, content: Content) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OccupiedError, match=r"notes\.txt"):
        make(tmp_path)
    assert content(tmp_path) == {"notes.txt": b"mine"}


def test_two_harvests_do_not_write_to_one_folder(make: Make, tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    with FileLock(tmp_path / "s" / "harvest.lock"), pytest.raises(StoreError, match="another harvest is writing"):
        make(tmp_path / "s")


def test_what_does_not_fit_is_refused_before_it_starts(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100 * 2**20))
    with pytest.raises(StoreError, match=r"100.0 MiB are free.* --tokens \d+$") as refused:
        make(tmp_path / "a" / "s", tokens=10**9)
    assert list(tmp_path.iterdir()) == []
    # What it says would fit does.
    make(tmp_path / "s", tokens=int(str(refused.value).split()[-1]))


def test_the_plan_bounds_what_is_written(make: Make, tmp_path: Path) -> None:
    events: list[Plan | Progress] = []
    store = make(tmp_path / "s", progress=events.append)
    plan = events[0]
    assert isinstance(plan, Plan)
    written = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert sum(shard.bytes for shard in store.manifest.shards) < written <= plan.bytes
    assert plan.seconds > 0
    last = events[-1]
    assert isinstance(last, Progress)
    assert (last.tokens, last.shards) == (3008, store.n_shards)


def failing_writes(monkeypatch: pytest.MonkeyPatch, name: str, code: int) -> None:
    write = Location.write

    def full(self: Location, written: str, chunks: Iterable[Any]) -> Digest:
        if written == name:
            raise OSError(code, "No space left on device")
        return write(self, written, chunks)

    monkeypatch.setattr(Location, "write", full)


def test_a_full_disk_at_the_first_shard_leaves_nothing(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing_writes(monkeypatch, "shards/00000.safetensors", errno.ENOSPC)
    with pytest.raises(StoreError, match="the disk is full"):
        make(tmp_path / "deep" / "s")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_later_keeps_whole_shards_to_go_on_from(
    make: Make, store: Store, content: Content, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        failing_writes(patch, "shards/00002.safetensors", errno.ENOSPC)
        with pytest.raises(StoreError, match=r"the disk is full .*the 2 whole shards stay"):
            make(tmp_path / "s")
    assert not list(tmp_path.rglob("*.partial"))
    make(tmp_path / "s")
    assert content(tmp_path / "s") == content(Path(store.path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_the_system_saying_the_disk_is_full_removes_the_half_file(tmp_path: Path) -> None:
    location = Location(tmp_path)

    def chunks() -> Iterable[bytes]:
        yield b"begun"
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    with pytest.raises(OSError, match="No space left"):
        location.write("file", chunks())
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_place_is_one_line(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"cannot write to .*Not a directory"):
        make(tmp_path / "file" / "s")
    with pytest.raises(StoreError, match="is a file, not a folder"):
        make(tmp_path / "file")


def test_nan_is_named_and_leaves_nothing(fresh_lm: LanguageModel, store: Store, make: Make, tmp_path: Path) -> None:
    victim = int(store.shard(0).token[40])
    with torch.no_grad():
        fresh_lm.hf_model.get_input_embeddings().weight[victim, 0] = float("nan")  # type: ignore[operator]
    sequence, position = (store.shard(0).sequences == victim).nonzero()[0].tolist()
    with pytest.raises(StoreError, match=f"resid_pre.0, sequence {sequence}, position {position} is NaN"):
        make(tmp_path / "s", ["resid_pre.0"], lm=fresh_lm)
    assert list(tmp_path.iterdir()) == []


def test_a_value_beyond_float16_is_refused(fresh_lm: LanguageModel, make: Make, tmp_path: Path) -> None:
    with torch.no_grad():
        fresh_lm.hf_model.get_input_embeddings().weight.mul_(1e8)  # type: ignore[operator]
    with pytest.raises(StoreError, match="beyond float16"):
        make(tmp_path / "s", lm=fresh_lm, store_dtype="float16")
    assert list(tmp_path.iterdir()) == []


def test_text_may_end_early_but_not_before_the_first_sequence(make: Make, text_file: Path, tmp_path: Path) -> None:
    store = make(tmp_path / "s", tokens=10**6)
    assert store.manifest.corpus_ended
    assert sum(counts.tokens for counts in store.manifest.counts.values()) < 10**6
    assert not make(tmp_path / "t", tokens=1).manifest.corpus_ended
    short = tmp_path / "short.txt"
    short.write_text("Too short.")
    with pytest.raises(TextError, match="shorter than the context"):
        make(tmp_path / "u" / "v", corpus=Corpus.open(str(short)))
    assert not (tmp_path / "u").exists()


def test_wrong_requests_leave_nothing(make: Make, tmp_path: Path) -> None:
    for changes, named in [
        ({"points": ["resid_pots.0"]}, "resid_post.0"),
        ({"points": []}, "no hook points"),
        ({"points": ["resid_post.0", "resid_post.0"]}, "given twice"),
        ({"tokens": 0}, "tokens must be positive"),
        ({"store_dtype": "int8"}, "bfloat16, float16, float32"),
        ({"batch_tokens": 0}, "batch tokens"),
        ({"shard_tokens": -1}, "shard tokens"),
        ({"sink_ratio": 0}, "sink ratio"),
        ({"sink_ratio": float("inf")}, "1e9 leaves no sink out"),
    ]:
        with pytest.raises((UsageError, ModelError), match=named):
            make(tmp_path / "s", **changes)
    assert list(tmp_path.iterdir()) == []


# --- elsewhere -----------------------------------------------------------------------------------------------------------


def test_a_store_in_memory_is_continued_and_equals_one_on_disk(make: Make, store: Store) -> None:
    import fsspec

    fs = fsspec.filesystem("memory")
    with pytest.raises(KeyboardInterrupt):
        make("memory://a/store", progress=stopping_after(2))
    with pytest.raises(StoreError, match="incomplete"):
        Store.open("memory://a/store")
    remote = make("memory://a/store")
    remote.verify()
    assert fs.cat("/a/store/manifest.json") == Path(store.path, "manifest.json").read_bytes()
    for mine, theirs in zip(remote.shards(), store.shards(), strict=True):
        assert torch.equal(mine.activations["mlp_out.1"], theirs.activations["mlp_out.1"])
    fs.pipe("/other/notes.txt", b"mine")
    with pytest.raises(OccupiedError, match="notes"):
        make("memory://other")


def test_a_failed_harvest_leaves_nothing_in_memory_either(make: Make) -> None:
    import fsspec

    with pytest.raises(KeyboardInterrupt):
        make("memory://b/store", progress=stopping_after(0))
    assert fsspec.filesystem("memory").find("/b") == []


def test_a_file_url_is_a_local_folder(make: Make, store: Store, content: Content, tmp_path: Path) -> None:
    make(f"file://{tmp_path}/s")
    assert content(tmp_path / "s") == content(Path(store.path))
    with pytest.raises(StoreError, match="cannot open nonsense://x"):
        make("nonsense://x")


# --- the real model ------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_every_first_position_of_smollm2_is_a_sink_and_hardly_any_other(tmp_path: Path) -> None:
    lm = LanguageModel.load("smollm2")
    store = harvest(lm, Corpus.open("lee-news"), ["resid_post.14"], tmp_path / "s", tokens=2048, batch_tokens=2048)
    counts = store.manifest.totals()["train"] + store.manifest.totals()["held_out"]
    assert store.kept_rule.reference_norm["resid_post.14"] < 300
    assert counts.sink_any + counts.special >= 8
    assert counts.sink_any <= 10
    assert not bool((store.shard(0).position == 0).any())
    assert store.statistics()["resid_post.14"].mean_square < 300**2
    assert store.tokenizer().decode(store.sequence(0)) == lm.tokenizer.decode(store.sequence(0))


def test_one_short_document_does_not_set_the_rule_for_all(
    lm: LanguageModel, text_file: Path, tmp_path: Path, make: Callable[..., Store]
) -> None:
    """Where each document is a sequence, the first forward batch may be a word, and the median of a word is its first position:
    a sink in many models."""
    path = tmp_path / "documents.jsonl"
    path.write_text(json.dumps({"text": "H"}) + "\n" + text_file.read_text())
    corpus, whole = Corpus.open(str(path)), SequenceOptions(context=64, packed=False, held_out=0.25)
    one = make(tmp_path / "one", corpus=corpus, options=whole, batch_tokens=64)
    many = make(tmp_path / "many", corpus=corpus, options=whole, batch_tokens=64 * 40)
    stream = ModelStream(lm, corpus, list(one.points), whole, tokens=3000, batch_size=64, batch_tokens=64)
    for point in one.points:
        found = one.kept_rule.reference_norm[point]
        assert found == pytest.approx(many.kept_rule.reference_norm[point], rel=0.05)
        assert stream.kept_rule.reference_norm[point] == found
    stream.close()
    assert one.n_rows == many.n_rows
