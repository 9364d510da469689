"""A folder that may be local or behind any fsspec URL, with the few operations a store needs.

Local files appear under their name only when whole (temporary name, fsync, rename). Remote ones are written straight to
their name, which is why a store's manifest is written last and nothing unnamed by it is ever read.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from saescope.errors import StoreError
from saescope.paths import typed_path

TEMPORARY = ".partial"


@dataclass(frozen=True)
class Digest:
    bytes: int
    sha256: str


class Location:
    """`Location("runs/store")`, `Location("s3://bucket/store")`, `Location("memory://store")`."""

    def __init__(self, spec: str | os.PathLike[str]):
        self.spec = os.fspath(spec)
        self._fs: Any = None
        self._root = ""
        self._cache: Path | None = None
        self.local: Path | None = None
        if "://" not in self.spec:
            self.local = typed_path(self.spec)
            return
        try:
            import fsspec
            from fsspec.implementations.local import LocalFileSystem

            fs, root = fsspec.core.url_to_fs(self.spec)
        except (ImportError, ValueError, OSError) as error:
            raise StoreError(f"cannot open {self.spec}: {_one_line(error)}") from error
        if isinstance(fs, LocalFileSystem):
            self.local = Path(root)
        else:
            self._fs, self._root = fs, root.rstrip("/")

    def __str__(self) -> str:
        return self.spec

    def names(self) -> list[str]:
        """What lies directly in the folder, sorted; empty when there is no folder."""
        try:
            if self.local is not None:
                return sorted(os.listdir(self.local))
            return sorted(str(name).rstrip("/").rsplit("/", 1)[-1] for name in self._fs.ls(self._root, detail=False))
        except (FileNotFoundError, NotADirectoryError):
            if self.local is not None and self.local.is_file():
                raise StoreError(f"{self.spec} is a file, not a folder; choose another place") from None
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self.spec}: {_one_line(error)}") from error

    def sizes(self) -> dict[str, int]:
        """Bytes of every file below the folder, by relative name; empty when there is no folder."""
        if self.local is not None:
            files = (path for path in self.local.rglob("*") if path.is_file())
            return {path.relative_to(self.local).as_posix(): path.stat().st_size for path in files}
        try:
            self._fs.invalidate_cache()
            found = self._fs.find(self._root, detail=True)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StoreError(f"cannot list {self.spec}: {_one_line(error)}") from error
        prefix = self._root.rstrip("/") + "/"
        return {name.removeprefix(prefix): int(info["size"]) for name, info in found.items()}

    def read(self, name: str) -> bytes:
        """Whole content; FileNotFoundError when there is none."""
        with self.open(name) as file:
            return file.read()

    def open(self, name: str) -> BinaryIO:
        if self.local is not None:
            return (self.local / name).open("rb")
        return cast(BinaryIO, self._fs.open(f"{self._root}/{name}", "rb"))

    def write(self, name: str, chunks: Iterable[bytes | memoryview]) -> Digest:
        """Writes the chunks one after the other; the file bears its name only once it is whole."""
        if self.local is None:
            with self._fs.open(f"{self._root}/{name}", "wb") as file:
                return _write_hashed(file, chunks)
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(target.name + TEMPORARY)
        try:
            with temporary.open("wb") as file:
                digest = _write_hashed(file, chunks)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return digest

    def hash(self, name: str) -> Digest:
        sha, n_bytes = hashlib.sha256(), 0
        with self.open(name) as file:
            while chunk := file.read(1 << 22):
                sha.update(chunk)
                n_bytes += len(chunk)
        return Digest(n_bytes, sha.hexdigest())

    def fetched(self, name: str) -> Path:
        """A local path to the file: itself, or a download kept until this object is collected."""
        if self.local is not None:
            return self.local / name
        if self._cache is None:
            self._cache = Path(tempfile.mkdtemp(prefix="saescope-store-"))
            weakref.finalize(self, shutil.rmtree, self._cache, ignore_errors=True)
        target = self._cache / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = target.with_name(target.name + TEMPORARY)
            self._fs.get_file(f"{self._root}/{name}", str(temporary))
            os.replace(temporary, target)
        return target

    def remove(self, name: str) -> None:
        if self.local is not None:
            (self.local / name).unlink(missing_ok=True)
        elif self._fs.exists(f"{self._root}/{name}"):
            self._fs.rm_file(f"{self._root}/{name}")

    def free_bytes(self) -> int | None:
        """Free disk where the folder is or would be; None where that cannot be known."""
        if self.local is None:
            return None
        parent = self.local.absolute()
        while not parent.exists():
            parent = parent.parent
        return shutil.disk_usage(parent).free


def _write_hashed(file: Any, chunks: Iterable[bytes | memoryview]) -> Digest:
    sha, n_bytes = hashlib.sha256(), 0
    for chunk in chunks:
        file.write(chunk)
        sha.update(chunk)
        n_bytes += len(chunk)
    return Digest(n_bytes, sha.hexdigest())


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
