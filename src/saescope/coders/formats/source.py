"""Where a coder's files come from (a folder, a file, a repository of the hub), and reading them without running anything.

Safetensors, npz without objects, JSON, YAML's plain part, and pickles of tensors (`weights_only`). Whatever else a file
holds is refused in one line; so is a tensor that claims more memory than there is.
"""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import psutil
import torch
import yaml
from safetensors import SafetensorError, safe_open
from torch import Tensor

from saescope.errors import CoderError, SaescopeError

# A folder's own files, and those one folder below (`checkpoints/final.safetensors`).
_DEPTH = 2
# A folder with more files than this is no coder's; looking through it would take long.
_MOST_FILES = 20_000


class Source(ABC):
    """Files by their names within the coder's folder.

    spec: what the user gave. chosen: the one file that was asked for, if one was. trail: every name on the way to the files,
    which in some formats is all that says what a coder reads.
    """

    def __init__(self, spec: str, chosen: str | None, trail: str) -> None:
        self.spec, self.chosen, self.trail = spec, chosen, trail
        self._read: dict[str, Any] = {}

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """The names of all files."""

    @abstractmethod
    def path(self, name: str) -> Path:
        """A file on this machine, fetched if need be."""

    @abstractmethod
    def with_file(self, file: str) -> Source:
        """The same source when `file` of it is asked for."""

    def above(self) -> Source | None:
        """The folder that this one is in, where a checkpoint's run keeps its configuration; None where nobody knows."""
        return None

    def label(self, name: str) -> str:
        """A file as messages name it."""
        return self.spec if name == self.chosen else f"{self.spec.rstrip('/')}/{name}"

    def has(self, *names: str) -> bool:
        return all(name in self.names for name in names)

    def matching(self, pattern: str) -> list[str]:
        """Names that a glob pattern matches, sorted; the chosen file alone where it does."""
        if self.chosen is not None:
            return [self.chosen] if PurePosixPath(self.chosen).match(pattern) else []
        return sorted(name for name in self.names if PurePosixPath(name).match(pattern) and "/" not in name)

    def weights(self, default: str) -> str:
        """The name of the file that holds the weights: the chosen one, or the format's own."""
        if self.chosen is not None and PurePosixPath(self.chosen).suffix == PurePosixPath(default).suffix:
            return self.chosen
        return default

    def json(self, name: str) -> dict[str, Any]:
        return self._mapping(name, lambda text: json.loads(text))

    def yaml(self, name: str) -> dict[str, Any]:
        return self._mapping(name, yaml.safe_load)

    def _mapping(self, name: str, parse: Any) -> dict[str, Any]:
        try:
            content = parse(self._existing(name).read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
            raise CoderError(f"{self.label(name)} cannot be read: {_first_line(error)}") from None
        if not isinstance(content, dict):
            raise CoderError(f"{self.label(name)} holds a {type(content).__name__}, not an object; it is not a coder's")
        return content

    def tensors(self, name: str) -> dict[str, Tensor]:
        """All tensors of a safetensors file."""
        path = self._existing(name)
        self._refuse_too_large(name, path.stat().st_size)
        with self._refusals(name, "a safetensors file"), safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - it is no dict

    def arrays(self, name: str) -> dict[str, Tensor]:
        """All arrays of an npz file."""
        path = self._existing(name)
        with self._refusals(name, "an npz file"), zipfile.ZipFile(path) as archive:
            claimed = 0
            for member in archive.infolist():
                with archive.open(member) as file:
                    version = np.lib.format.read_magic(file)
                    read = (
                        np.lib.format.read_array_header_1_0
                        if version == (1, 0)
                        else np.lib.format.read_array_header_2_0
                    )
                    shape, _, dtype = read(file)
                if dtype.hasobject:
                    raise ValueError(f"{member.filename} holds Python objects")
                claimed += int(np.prod([float(size) for size in shape])) * dtype.itemsize
            self._refuse_too_large(name, claimed)
            with np.load(path, allow_pickle=False) as arrays:
                return {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}

    def pickle(self, name: str) -> dict[str, Any]:
        """What a file of `torch.save` holds: a dictionary of tensors, numbers and strings; nothing else is unpickled."""
        if name not in self._read:
            path = self._existing(name)
            with path.open("rb") as file:
                archived = file.read(2) == b"PK"
            if archived:
                with self._refusals(name, "a file of torch.save"), zipfile.ZipFile(path) as archive:
                    self._refuse_too_large(name, sum(member.file_size for member in archive.infolist()))
                    # torch does not look at the checksums, and a flipped bit would be another coder.
                    if (wrong := archive.testzip()) is not None:
                        raise ValueError(f"the checksum of {wrong} is wrong")
            try:
                content = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError as error:
                # The pickled classes that torch names are what a reader can act on.
                raise CoderError(
                    f"{self.label(name)} holds more than tensors, or is damaged, and loading it could run code: "
                    f"{_first_line(error)}; ask its author for safetensors"
                ) from None
            except Exception as error:
                raise CoderError(
                    f"{self.label(name)} is damaged or not a file of torch.save: {_first_line(error)}"
                ) from None
            if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
                raise CoderError(f"{self.label(name)} holds a {type(content).__name__}, not named tensors")
            self._read[name] = content
        content = self._read[name]
        return dict(content)

    def _existing(self, name: str) -> Path:
        if name not in self.names:
            raise CoderError(f"no coder at {self.spec}: {name} is missing")
        return self.path(name)

    def _refuse_too_large(self, name: str, claimed: int) -> None:
        free = psutil.virtual_memory().available
        if claimed > free:
            raise CoderError(
                f"{self.label(name)} claims {claimed / 2**30:,.0f} GiB of tensors and {free / 2**30:,.1f} GiB of memory are "
                "free; it is damaged, or needs a larger machine"
            )

    @contextmanager
    def _refusals(self, name: str, what: str) -> Iterator[None]:
        try:
            yield
        except SaescopeError:
            raise
        except (
            SafetensorError, OSError, struct.error, ValueError, TypeError, KeyError, RuntimeError, EOFError, MemoryError,
            zipfile.BadZipFile, NotImplementedError, SyntaxError, OverflowError,
        ) as error:  # fmt: skip
            raise CoderError(f"{self.label(name)} is damaged or not {what}: {_first_line(error)}") from None


class LocalSource(Source):
    """Files in a folder of this machine."""

    def __init__(self, spec: str, folder: Path, chosen: str | None = None) -> None:
        super().__init__(spec, chosen, str(folder.resolve() / (chosen or "")))
        self.folder = folder
        self._names: frozenset[str] | None = None

    @property
    def names(self) -> frozenset[str]:
        if self._names is None:
            self._names = frozenset(
                name for name, _ in zip(_files(self.folder, _DEPTH), range(_MOST_FILES), strict=False)
            )
        return self._names

    def path(self, name: str) -> Path:
        return self.folder / name

    def above(self) -> Source | None:
        return LocalSource(str(self.folder.parent), self.folder.parent) if self.folder.name == "checkpoints" else None

    def with_file(self, file: str) -> Source:
        if not (self.folder / file).is_file():
            raise CoderError(f"{self.spec} has no file {file}; it has {listed(self.names)}")
        inside = self.folder / file
        return LocalSource(f"{self.spec.rstrip('/')}/{file}", inside.parent, inside.name)


def _files(folder: Path, depth: int) -> Iterator[str]:
    for entry in sorted(folder.iterdir()):
        if entry.is_file():
            yield entry.name
        elif entry.is_dir() and depth > 1 and not entry.name.startswith("."):
            yield from (f"{entry.name}/{name}" for name in _files(entry, depth - 1))


def listed(names: frozenset[str], most: int = 6) -> str:
    """Some of these names, for a message."""
    shown = sorted(names, key=lambda name: (name.count("/"), name))[:most]
    return (", ".join(shown) or "no files") + (f" and {len(names) - most} more" if len(names) > most else "")


def _first_line(error: BaseException) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    sentence = text.split(". ")[0].rstrip(".")
    return sentence if len(sentence) <= 200 else sentence[:197] + "..."
