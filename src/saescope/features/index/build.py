"""Building an index: one pass that appends codes part by part, then everything else from the arrays on disk."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import filelock
import torch

from saescope.activations.documents import DOCUMENTS, encode_documents
from saescope.coders import SparseCoder
from saescope.errors import FeatureIndexError, OccupiedError, UsageError
from saescope.features.index.arrays import ARRAYS, array_path
from saescope.features.index.assembly import assemble, transpose
from saescope.features.index.facts import FACTS, NO_MODEL, OUTPUT_TOKENS, write_families, write_forms, write_weights
from saescope.features.index.manifest import MANIFEST, IndexedCoder, IndexManifest, recorded
from saescope.features.index.parts import PARTS, Part, parts_done, positions_of, write_part
from saescope.features.index.progress import kept_progress
from saescope.features.index.reader import TOKENIZER, FeatureIndex
from saescope.features.index.source import Source
from saescope.features.index.statistics import find_coactive, sweep_features
from saescope.features.index.tables import FEATURES, write_features
from saescope.features.store_pass import check_weights
from saescope.progress import Progress
from saescope.whole_files import is_unfinished, write_whole

if TYPE_CHECKING:
    from saescope.lm import LanguageModel

Result = TypeVar("Result")
MEMORY = 2**30
_LOCK = ".lock"


@torch.no_grad()
def build_index(
    coder: SparseCoder,
    source: Source,
    out: str | os.PathLike[str],
    *,
    coder_path: str | os.PathLike[str] | None = None,
    lm: LanguageModel | None = None,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> FeatureIndex:
    """Index who fires where over all that `source` gives, into the folder `out`.

    An interrupted build goes on behind its last finished part; a finished one of the same coder and text is opened; any other
    folder that holds something is an OccupiedError. `lm`: the coder's model, for output tokens, which the index does without
    otherwise, and which are added to a finished index that was built without; one of other weights is refused. `memory`:
    bytes that the transpose may take beside a part's codes. `progress(stage, done, total)`; the same is kept in
    `progress.json` while the build lasts.
    """
    folder = Path(out)
    manifest = _planned(coder, source, folder, coder_path)
    if lm is not None:
        manifest.check_model(lm.identity())
        check_weights(coder, lm.identity(), "the model given")
    if memory < 2**20:
        raise UsageError(f"{memory} bytes of memory are too few for an index; give at least 1 MiB")
    if _is_finished(folder, manifest):
        opened = FeatureIndex.open(folder)
        if lm is None or opened.manifest.skipped.get(OUTPUT_TOKENS) != NO_MODEL:
            # Nothing is written, so that an index in a folder that cannot be is opened too.
            return opened
        with _alone(folder), kept_progress(folder, "index", progress) as tell:
            _Builder(folder, opened.manifest, coder, source, lm, memory, tell).describe()
        return FeatureIndex.open(folder)
    with _alone(folder):
        if not _is_finished(folder, manifest):
            if IndexManifest.read(folder) is None:
                manifest.write(folder)
            with kept_progress(folder, "index", progress) as tell:
                _Builder(folder, manifest, coder, source, lm, memory, tell).run()
    return FeatureIndex.open(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """The right to build there. OccupiedError while another has it, FeatureIndexError where nothing can be written."""
    lock = filelock.FileLock(folder / _LOCK, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise OccupiedError(f"another process is building {folder}; wait for it, or choose another --out") from None
    except OSError as error:
        raise FeatureIndexError(f"cannot make {folder}: {error.strerror or error}") from None
    try:
        yield
    finally:
        lock.release()


class _Builder:
    def __init__(
        self,
        folder: Path,
        manifest: IndexManifest,
        coder: SparseCoder,
        source: Source,
        lm: LanguageModel | None,
        memory: int,
        progress: Progress,
    ) -> None:
        self.folder, self.manifest, self.coder, self.source, self.lm = folder, manifest, coder, source, lm
        self.memory, self._progress = memory, progress

    def run(self) -> None:
        manifest, folder = self.manifest, self.folder
        fingerprint = manifest.fingerprint()
        n_parts = self._timed("encode", lambda: self._encode(fingerprint))
        manifest.counts = self._timed(
            "assemble",
            lambda: assemble(folder, n_parts, fingerprint, manifest.coder.d_sae, self._told("assemble")),
        )
        self._timed("transpose", lambda: transpose(folder, self.memory, self._told("transpose")))
        documents = self.source.documents()
        manifest.names = self._timed("sweep", lambda: sweep_features(folder, documents, self._told("sweep")))
        self._timed("co-activation", lambda: find_coactive(folder, manifest.counts.tokens))
        write_whole(folder / DOCUMENTS, encode_documents(documents))
        self.describe()

    def describe(self) -> None:
        """What follows from the codes on disk, the coder's weights and its model; then the index is complete."""
        manifest, folder = self.manifest, self.folder
        tokenizer = self.source.tokenizer()
        if manifest.complete:
            # An interruption leaves files of other sizes, which the manifest on disk must not contradict.
            rewritten = {FEATURES, *(array_path(folder, name).relative_to(folder).as_posix() for name in FACTS)}
            manifest.files = {name: record for name, record in manifest.files.items() if name not in rewritten}
            manifest.write(folder)
        else:
            tokenizer.save_pretrained(str(folder / TOKENIZER))
        manifest.skipped = {}
        self._timed("weights", lambda: write_weights(folder, manifest, self.coder, self.lm))
        self._timed("families", lambda: write_families(folder, manifest, self.coder))
        self._timed("forms", lambda: write_forms(folder, manifest, tokenizer))
        if not manifest.complete:
            manifest.write(folder)
        index = FeatureIndex(folder, manifest)
        self._timed("tables", lambda: write_features(index))
        self._finish()

    def _encode(self, fingerprint: str) -> int:
        number = parts_done(self.folder, fingerprint)
        tell = self._told("encode")
        done, total = sum(positions_of(self.folder, part) for part in range(number)), self.source.n_positions
        for unit in self.source.units(number):
            part = Part.of(unit)
            write_part(self.folder, number, part, fingerprint)
            number += 1
            done += len(part.tokens)
            tell(min(done, total), total)
        if not number:
            raise FeatureIndexError("there is no text to index; give a store or a corpus that has some")
        return number

    def _finish(self) -> None:
        """Record every file, mark the index complete, and give up what it was made from."""
        names = sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file() and path.relative_to(self.folder).parts[0] in _KEPT
        )
        self.manifest.files = {name: recorded(self.folder / name) for name in names}
        self.manifest.created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self.manifest.complete = True
        self.manifest.write(self.folder)
        shutil.rmtree(self.folder / PARTS, ignore_errors=True)

    def _told(self, stage: str) -> Callable[[int, int], None]:
        return lambda done, total: self._progress(stage, done, total)

    def _timed(self, stage: str, work: Callable[[], Result]) -> Result:
        started = time.perf_counter()
        self._told(stage)(0, 1)
        result = work()
        self._told(stage)(1, 1)
        self.manifest.seconds[stage] = round(time.perf_counter() - started, 2)
        return result


_KEPT = (ARRAYS, TOKENIZER, DOCUMENTS, FEATURES)


def _planned(
    coder: SparseCoder, source: Source, folder: Path, coder_path: str | os.PathLike[str] | None
) -> IndexManifest:
    from saescope import __version__

    metadata = coder.metadata
    path = "" if coder_path is None else os.path.relpath(Path(coder_path).resolve(), folder.resolve())
    about = IndexedCoder(
        name=metadata.name or (Path(coder_path).name if coder_path else "coder"),
        path=path,
        fingerprint=coder_fingerprint(coder),
        architecture=metadata.trained_as,
        kind=coder.kind,
        reads=[part.point for part in coder.reads],
        writes=[part.point for part in coder.writes],
        d_in=coder.d_in,
        d_out=coder.d_out,
        d_sae=coder.d_sae,
        levels=metadata.levels or [coder.d_sae],
    )
    return IndexManifest(
        coder=about,
        model=source.model(),
        corpus=source.corpus(),
        source=source.describe(),
        options={},
        environment={"saescope": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )


def coder_fingerprint(coder: SparseCoder) -> str:
    """sha256 over a coder's tensors, by name, and over what else decides its codes: a TopK coder's k is no tensor."""
    digest = hashlib.sha256()
    settings = coder.architecture.inference_options()
    if settings or coder.token_norm is not None:
        norm = None if coder.token_norm is None else coder.token_norm.kind
        digest.update(json.dumps([coder.architecture.inference, settings, norm], sort_keys=True).encode() + b"\n")
    for name, tensor in sorted(coder.state_dict().items()):
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_begun(name: str) -> bool:
    """Whether a file is what a build that was killed at its very beginning leaves."""
    return name == _LOCK or is_unfinished(name, MANIFEST)


def _is_finished(folder: Path, manifest: IndexManifest) -> bool:
    """Whether the index is there already, whole. OccupiedError where the folder holds anything but a beginning of it."""
    existing = IndexManifest.read(folder)
    if existing is None:
        if folder.exists() and not (folder.is_dir() and all(_is_begun(path.name) for path in folder.iterdir())):
            raise OccupiedError(f"{folder} holds something else; choose another --out")
        return False
    if existing.request() != manifest.request():
        other = [key for key, value in manifest.request().items() if existing.request().get(key) != value]
        raise OccupiedError(
            f"{folder} holds an index of other things (another {', '.join(other)}); choose another --out, or remove it"
        )
    return existing.complete
