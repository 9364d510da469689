"""Activations of many short texts, kept so that every metric, coder and control reads the same run of the model.

They lie in files that are mapped into memory, one a hook point: labelled sets of thousands of texts are larger than what
should stay resident. Without a folder to keep them in, they are gone when the cache is.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from filelock import FileLock
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.activations import KeptRule
from saescope.errors import SaescopeError, TextError
from saescope.evaluation.subject import Subject
from saescope.lm import LanguageModel
from saescope.whole_files import reserve

# Tokens of one run, padding included.
_BATCH_TOKENS = 8192
_NOTE = "texts.json"
Told = Callable[[int, int], None]


@dataclass(frozen=True)
class TextActivations:
    """Every token of every text, text after text.

    tokens, text, position [rows]: the token's id, the number of its text, its place there. pointers [texts + 1]: text i has
    rows pointers[i] to pointers[i + 1]. values: per hook point [rows, d], in the model's precision, mapped from a file.
    """

    tokens: Int[Tensor, "rows"]
    text: Int[Tensor, "rows"]
    position: Int[Tensor, "rows"]
    pointers: Int[Tensor, "texts_plus_one"]
    values: dict[str, Float[Tensor, "rows d"]]

    @property
    def n_texts(self) -> int:
        return self.pointers.numel() - 1

    def kept(self, rule: KeptRule) -> Bool[Tensor, "rows"]:
        """The rows that count: no special token, no attention sink."""
        found = {point: values[None] for point, values in self.values.items()}
        return rule.kept(self.tokens[None], found)[0]

    def rule_of(self, subject: Subject, special_ids: Iterable[int]) -> KeptRule:
        """Which rows count for a coder: by its own rule, else by one measured on these."""
        return subject.rule_for(
            self.tokens[None], {point: values[None] for point, values in self.values.items()}, special_ids
        )

    def concatenated(
        self, points: Sequence[str], rows: Int[Tensor, "chosen"] | Bool[Tensor, "rows"] | slice
    ) -> Float[Tensor, "chosen d"]:
        """What a coder reads or writes at these rows, in float32."""
        return torch.cat([self.values[point][rows].float() for point in points], 1)


class ActivationCache:
    """Runs texts through the model once, up to the last hook point asked for. `folder` keeps the files for other commands."""

    def __init__(self, lm: LanguageModel, folder: Path | None = None, *, batch_tokens: int = _BATCH_TOKENS) -> None:
        self.lm = lm
        self.batch_tokens = batch_tokens
        if folder is None:
            self.folder = Path(tempfile.mkdtemp(prefix="saescope-activations-"))
            self._gone = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        else:
            self.folder = folder

    def of(self, texts: Sequence[Sequence[int]], points: Sequence[str], told: Told | None = None) -> TextActivations:
        """Activations at `points` of texts given as token ids (each run by itself, so with its own BOS where the model wants
        one). `told(texts done, texts in all)` where the model has to run. TextError on an empty text."""
        lengths = torch.tensor([len(text) for text in texts], dtype=torch.int64)
        if not len(texts) or not bool((lengths > 0).all()):
            raise TextError(f"text {int((lengths == 0).nonzero()[0]) if len(texts) else 0} has no tokens to run")
        pointers = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        tokens = torch.cat([torch.as_tensor(text, dtype=torch.int64) for text in texts])
        owner = torch.repeat_interleave(torch.arange(len(texts)), lengths)
        position = torch.arange(tokens.numel()) - pointers[owner]
        folder = self.folder / self._key(tokens, pointers)
        if self._missing(folder, points):
            with self._alone(folder):
                # Another process may have written some of them meanwhile.
                if missing := self._missing(folder, points):
                    self._run(tokens, pointers, missing, folder, told or (lambda done, total: None))
        values = {point: self._mapped(folder, point, tokens.numel()) for point in points}
        return TextActivations(tokens, owner, position, pointers, values)

    def _key(self, tokens: Int[Tensor, "rows"], pointers: Int[Tensor, "texts_plus_one"]) -> str:
        identity = {key: value for key, value in self.lm.identity().items() if key not in ("spec", "name")}
        digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode())
        for part in (tokens, pointers):
            digest.update(part.numpy().tobytes())
        return digest.hexdigest()[:24]

    @staticmethod
    def _file(folder: Path, point: str) -> Path:
        return folder / f"{point}.bin"

    def _missing(self, folder: Path, points: Sequence[str]) -> list[str]:
        return [point for point in dict.fromkeys(points) if not self._file(folder, point).exists()]

    def _mapped(self, folder: Path, point: str, rows: int) -> Float[Tensor, "rows d"]:
        width = self.lm.width(point)
        path = self._file(folder, point)
        if path.stat().st_size != rows * width * self.lm.dtype.itemsize:
            raise SaescopeError(f"{path} is damaged: its size is not that of {rows} rows; delete {folder}")
        flat = torch.from_file(str(path), shared=False, size=rows * width, dtype=self.lm.dtype)
        return flat.view(rows, width)

    @staticmethod
    @contextmanager
    def _alone(folder: Path) -> Iterator[None]:
        """The folder, for one process at a time; the others wait. SaescopeError where it cannot be written."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder / ".lock"):
                yield
        except OSError as error:
            raise SaescopeError(f"cannot keep activations in {folder}: {error.strerror or error}") from None

    def _run(
        self,
        tokens: Int[Tensor, "rows"],
        pointers: Int[Tensor, "texts_plus_one"],
        points: list[str],
        folder: Path,
        told: Told,
    ) -> None:
        writing = {point: folder / f".{point}.writing" for point in points}
        try:
            files = {point: self._new(path, tokens.numel(), self.lm.width(point)) for point, path in writing.items()}
            done = 0
            for batch in self._batches(pointers):
                self._run_batch(batch, tokens, pointers, files)
                done += len(batch)
                told(done, pointers.numel() - 1)
            del files
            for point, path in writing.items():
                path.replace(self._file(folder, point))
        finally:
            with suppress(OSError):
                for path in writing.values():
                    path.unlink(missing_ok=True)

    def _new(self, path: Path, rows: int, width: int) -> Float[Tensor, "rows d"]:
        """A new file of that many rows, mapped. OSError where the disk has no room for it."""
        with path.open("wb") as file:
            reserve(file, rows * width * self.lm.dtype.itemsize)
        return torch.from_file(str(path), shared=True, size=rows * width, dtype=self.lm.dtype).view(rows, width)

    def _batches(self, pointers: Int[Tensor, "texts_plus_one"]) -> list[list[int]]:
        """Texts of about equal length together, so that little padding is run."""
        lengths = pointers.diff()
        batches: list[list[int]] = []
        for text in lengths.argsort(stable=True).tolist():
            if not batches or (len(batches[-1]) + 1) * int(lengths[text]) > self.batch_tokens:
                batches.append([])
            batches[-1].append(text)
        return batches

    def _run_batch(
        self,
        batch: list[int],
        tokens: Int[Tensor, "rows"],
        pointers: Int[Tensor, "texts_plus_one"],
        files: dict[str, Float[Tensor, "rows d"]],
    ) -> None:
        starts, lengths = pointers[batch], pointers.diff()[batch]
        padded = torch.zeros(len(batch), int(lengths.max()), dtype=torch.int64)
        real = torch.arange(padded.shape[1]) < lengths[:, None]
        rows = (starts[:, None] + torch.arange(padded.shape[1]))[real]
        padded[real] = tokens[rows]
        run = self.lm.run(padded, attention_mask=real.long(), capture=list(files))
        for point, values in run.activations.items():
            files[point][rows] = values[real.to(values.device)].cpu()
