"""From a model and a corpus to an activation store, in one pass that survives being killed.

The manifest is rewritten, incomplete, after every shard; the same request picks up at the first shard it does not name.
Shards are whole forward batches and the exclusion rule is fixed before the first, so an interrupted harvest ends in the
same bytes as an uninterrupted one.
"""

from __future__ import annotations

import errno
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from filelock import FileLock, Timeout
from jaxtyping import Float
from torch import Tensor

from saescope.activations.background import Behind
from saescope.activations.batches import (
    BATCH_TOKENS,
    Excerpt,
    ForwardBatch,
    batch_sequences,
    checked_points,
    for_a_rule,
    in_batches,
)
from saescope.activations.documents import DOCUMENTS, encode_documents
from saescope.activations.estimate import Plan, bytes_per_token, planned, timed
from saescope.activations.exclusions import SINK_RATIO, KeptRule
from saescope.activations.location import TEMPORARY, Location
from saescope.activations.manifest import MANIFEST, FileRecord, Manifest, Request, ShardRecord
from saescope.activations.shard_writer import ShardWriter
from saescope.activations.shards import SHARDS, encode, read_moments, store_dtype
from saescope.activations.statistics import Moments
from saescope.activations.store import STATISTICS, TOKENIZER, Store, read_manifest
from saescope.errors import OccupiedError, StoreError, UsageError
from saescope.text import SequenceOptions

if TYPE_CHECKING:
    from saescope.lm import Expression, LanguageModel
    from saescope.text import Corpus

SHARD_TOKENS = 2**16
SHARD_BYTES = 2**28
LOCK = "harvest.lock"
_WARM_UP_TOKENS = 16
_PENDING_BATCHES = 2
# A forward batch and its activations.
_Ran = tuple[ForwardBatch, dict[str, Float[Tensor, "batch seq d"]]]


@dataclass(frozen=True)
class Progress:
    """So far: tokens run (of `tokens_total` asked for) and shards on disk."""

    tokens: int
    tokens_total: int
    shards: int


Listener = Callable[[Plan | Progress], None]


def harvest(
    lm: LanguageModel,
    corpus: Corpus,
    points: Expression,
    out: str | os.PathLike[str],
    *,
    tokens: int,
    options: SequenceOptions | None = None,
    batch_tokens: int = BATCH_TOKENS,
    shard_tokens: int | None = None,
    store_dtype: str = "bfloat16",
    sink_ratio: float = SINK_RATIO,
    progress: Listener | None = None,
) -> Store:
    """Runs the model over the first `tokens` tokens of the corpus and stores what it has at `points`,
    names or an expression such as `"mlp_in.*,mlp_out.*"`.

    `out` is a folder or an fsspec URL. A complete store of the same request is returned as it is, an incomplete one is
    continued; anything else there is an OccupiedError. `shard_tokens` defaults to 65,536, fewer where rows are wide.
    `progress` hears a `Plan` before the first shard and a `Progress` after every batch. A corpus that ends early is fine
    (`manifest.corpus_ended`); one that gives no sequence is a TextError.
    """
    request = _requested(
        lm, corpus, points, tokens, options or SequenceOptions(), batch_tokens, shard_tokens, store_dtype, sink_ratio
    )
    location = Location(out)
    begun = _begun(location, request)
    if begun is not None and begun.complete:
        return Store.open(out)
    with _own_folder(location):
        begun = _begun(location, request)
        if begun is not None and begun.complete:
            return Store.open(out)
        _check_environment(location, begun, lm)
        _remove_partial(location)
        # As it was begun: shards name the request they are of, the words for its model included.
        _Harvest(lm, corpus, begun.request if begun else request, location, progress).run(begun)
    return Store.open(out)


class _Harvest:
    def __init__(
        self, lm: LanguageModel, corpus: Corpus, request: Request, location: Location, progress: Listener | None
    ):
        self._lm = lm
        self._request = request
        self._location = location
        self._tell = progress or (lambda event: None)
        self._points = list(request.points)
        self._excerpt = Excerpt(lm, corpus, SequenceOptions(**request.sequences), request.tokens)

    def run(self, begun: Manifest | None) -> None:
        sequences = iter(self._excerpt)
        n_done = len(begun.shards) if begun else 0
        for _ in itertools.islice(sequences, n_done * self._request.shard_sequences):
            pass
        batches = in_batches(sequences, self._request.batch_sequences)
        first = next(batches, None)
        manifest = begun
        if first is not None:
            tokens_done = self._excerpt.n_tokens - first.n_tokens
            activations, plan = self._probed(first, tokens_done)
            self._tell(plan)
            plan.check_fits(self._location.spec, bytes_per_token(self._request.points, self._request.store_dtype))
            begin = [(first, activations)]
            if manifest is None:
                enough = for_a_rule(itertools.chain([first], batches), self._lm.special_ids)
                begin += [(batch, batch.run(self._lm, self._points)) for batch in itertools.islice(enough, 1, None)]
                manifest = self._opened(begin)
                self._save(manifest)
            self._write_shards(manifest, n_done, begin, batches)
        assert manifest is not None, "an excerpt without a sequence raises TextError"
        self._finish(manifest)

    def _probed(self, first: ForwardBatch, tokens_done: int) -> tuple[dict[str, Float[Tensor, "batch seq d"]], Plan]:
        """The first batch's activations and, from the time they took, the plan."""
        first.beginning(_WARM_UP_TOKENS).run(self._lm, self._points)
        activations: dict[str, Tensor] = {}
        seconds = timed(lambda: activations.update(first.run(self._lm, self._points)))
        plan = planned(
            self._request.tokens,
            tokens_done,
            bytes_per_token(self._request.points, self._request.store_dtype),
            seconds / first.n_tokens,
            self._location.free_bytes(),
        )
        return activations, plan

    def _opened(self, begin: list[_Ran]) -> Manifest:
        device = next(iter(begin[0][1].values())).device
        rule = KeptRule.measured(
            ((batch.token_tensor(device), activations) for batch, activations in begin),
            self._lm.special_ids,
            self._request.sink_ratio,
        )
        return Manifest(
            complete=False, request=self._request, environment=_environment(self._lm), kept_rule=rule.to_dict()
        )

    def _write_shards(
        self,
        manifest: Manifest,
        n_done: int,
        begin: list[_Ran],
        batches: Iterator[ForwardBatch],
    ) -> None:
        writer = ShardWriter(self._location, self._request, manifest.rule(), n_done)

        def record(shard: ShardRecord | None) -> None:
            if shard is not None:
                manifest.shards.append(shard)
                self._save(manifest)

        def write(item: tuple[ForwardBatch, dict[str, Tensor]]) -> None:
            with _disk_errors(self._location, manifest):
                record(writer.add(*item))

        with Behind(write, _PENDING_BATCHES, "saescope-shard-writer") as behind:
            while begin:
                behind.submit(begin.pop(0))
                self._tell(self._progress(manifest))
            for batch in batches:
                behind.submit((batch, batch.run(self._lm, self._points)))
                self._tell(self._progress(manifest))
        with _disk_errors(self._location, manifest):
            record(writer.finish())
        self._tell(self._progress(manifest))

    def _progress(self, manifest: Manifest) -> Progress:
        return Progress(self._excerpt.n_tokens, self._request.tokens, len(manifest.shards))

    def _finish(self, manifest: Manifest) -> None:
        with _disk_errors(self._location, manifest):
            self._write_file(manifest, DOCUMENTS, encode_documents(self._excerpt.documents))
            self._write_file(manifest, STATISTICS, self._statistics(manifest))
            with tempfile.TemporaryDirectory(prefix="saescope-tokenizer-") as folder:
                self._lm.tokenizer.save_pretrained(folder)
                for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
                    name = f"{TOKENIZER}/{path.relative_to(folder).as_posix()}"
                    self._write_file(manifest, name, path.read_bytes())
            manifest.counts = manifest.totals()
            manifest.corpus_ended = self._excerpt.corpus_ended
            manifest.complete = True
            self._save(manifest)

    def _write_file(self, manifest: Manifest, name: str, content: bytes) -> None:
        digest = self._location.write(name, [content])
        manifest.files[name] = FileRecord(bytes=digest.bytes, sha256=digest.sha256)

    def _statistics(self, manifest: Manifest) -> bytes:
        """Merged from the shards in their order, each read back, so that nothing depends on who wrote it."""
        total = {point: Moments(width) for point, width in self._request.points.items()}
        for shard in manifest.shards:
            with self._location.open(shard.file) as file:
                moments = read_moments(file, f"{shard.file} of {self._location}", self._points)
            for point, (mean, deviation) in moments.items():
                total[point].merge(shard.train.rows, mean, deviation)
        tensors: dict[str, Tensor | Sequence[Tensor]] = {}
        for point, merged in total.items():
            statistics = merged.statistics()
            tensors[f"mean/{point}"] = statistics.mean
            tensors[f"variance/{point}"] = statistics.variance
        return b"".join(encode(tensors, {"format": "pt", "store": self._request.fingerprint()}))

    def _save(self, manifest: Manifest) -> None:
        with _disk_errors(self._location, manifest):
            self._location.write(MANIFEST, [manifest.encode()])


def _requested(
    lm: LanguageModel,
    corpus: Corpus,
    points: Expression,
    tokens: int,
    options: SequenceOptions,
    batch_tokens: int,
    shard_tokens: int | None,
    dtype: str,
    sink_ratio: float,
) -> Request:
    if tokens <= 0:
        raise UsageError(f"tokens must be positive, got {tokens}")
    if shard_tokens is not None and shard_tokens <= 0:
        raise UsageError(f"shard tokens must be positive, got {shard_tokens}")
    if not sink_ratio > 0:
        raise UsageError(f"sink ratio must be positive, got {sink_ratio}")
    store_dtype(dtype)
    widths = checked_points(lm, points)
    per_batch = batch_sequences(batch_tokens, options)
    if shard_tokens is None:
        shard_tokens = min(SHARD_TOKENS, SHARD_BYTES // bytes_per_token(widths, dtype))
    per_shard = max(1, shard_tokens // (per_batch * options.context)) * per_batch
    return Request(
        model=lm.identity(),
        corpus=corpus.identity(),
        sequences=options.model_dump(),
        points=widths,
        store_dtype=dtype,
        tokens=tokens,
        sink_ratio=sink_ratio,
        batch_sequences=per_batch,
        shard_sequences=per_shard,
    )


def _begun(location: Location, request: Request) -> Manifest | None:
    """The manifest of an earlier run of this very request, or None for a free place; OccupiedError for all else."""
    manifest = read_manifest(location)
    if manifest is None:
        if foreign := [name for name in location.names() if name not in (LOCK, MANIFEST + TEMPORARY)]:
            raise OccupiedError(
                f"{location} is not empty and no activation store (it holds {foreign[0]}); choose another --out"
            )
        return None
    if differences := manifest.request.differences(request):
        raise OccupiedError(
            f"{location} holds a store of another harvest (different {', '.join(differences)}); choose another --out"
        )
    return manifest


def _environment(lm: LanguageModel) -> dict[str, str]:
    return {"torch": torch.__version__, "device": lm.device.type, "threads": str(torch.get_num_threads())}


def _check_environment(location: Location, begun: Manifest | None, lm: LanguageModel) -> None:
    """Shards of one store come from one arithmetic, or the bytes would tell when the harvest was interrupted."""
    if begun is None:
        return
    now = _environment(lm)
    for key, value in begun.environment.items():
        if now.get(key) != value:
            raise OccupiedError(
                f"the harvest in {location} was begun with {key} {value} and this is {now.get(key)}; "
                "continue it as it was begun or choose another --out"
            )


@contextmanager
def _own_folder(location: Location) -> Iterator[None]:
    """The folder, locked against a second harvest; taken away again when the harvest fails before its first shard."""
    if location.local is None:
        try:
            yield
        except OccupiedError:
            raise
        except BaseException:
            _remove_fruitless(location)
            raise
        return
    folder = location.local
    created = _missing_ancestors(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise StoreError(f"another harvest is writing to {folder}; wait for it or choose another --out") from None
    except OSError as error:
        raise StoreError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from error
    try:
        yield
    except OccupiedError:
        raise
    except BaseException:
        _remove_fruitless(location)
        raise
    finally:
        # Before it is given up: another harvest may take it in between, and a third would then find none.
        with suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)
        lock.release()
        for parent in created:
            with suppress(OSError):
                parent.rmdir()


def _remove_fruitless(location: Location) -> None:
    """Of a harvest without one whole shard, nothing stays; of another, no half-written file."""
    with suppress(StoreError, OSError):
        manifest = read_manifest(location)
        fruitless = manifest is None or not manifest.shards
        # The manifest last: by it the same command knows the folder again, should this be cut short.
        for name in sorted(location.sizes(), key=lambda name: name == MANIFEST):
            ours = name in (MANIFEST, DOCUMENTS, STATISTICS) or name.startswith((f"{SHARDS}/", f"{TOKENIZER}/"))
            if (ours and fruitless) or name.endswith(TEMPORARY):
                location.remove(name)
        if fruitless and location.local is not None:
            for folder in (SHARDS, TOKENIZER):
                with suppress(OSError):
                    (location.local / folder).rmdir()


def _remove_partial(location: Location) -> None:
    for name in location.sizes():
        if name.endswith(TEMPORARY):
            location.remove(name)


def _missing_ancestors(folder: Path) -> list[Path]:
    """The folder and its parents as far as they do not exist yet, innermost first."""
    return list(itertools.takewhile(lambda path: not path.exists(), [folder, *folder.parents]))


@contextmanager
def _disk_errors(location: Location, manifest: Manifest) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        n = len(manifest.shards)
        kept = f"; the {n} whole shards stay, the same command goes on from there" if n else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"the disk is full while writing to {location}; free some space{kept}") from error
        raise StoreError(f"cannot write to {location}: {error.strerror or error}{kept}") from error
