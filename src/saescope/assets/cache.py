"""The cache folder: where assets lie, what is there, and how a folder becomes one of them.

Layout, under `$SAESCOPE_CACHE` (else `$XDG_CACHE_HOME/saescope`, else `~/.cache/saescope`):

    assets/NAME/        a finished asset: its files, `licences/`, and `asset.json` saying how it was made
    work/               downloads and half-made assets of the one process that holds the lock; never read
    fetch.lock
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from saescope.assets.table import CORPORA, MODELS, Asset, lookup
from saescope.errors import AssetError, UsageError, nearest

RECORD = "asset.json"
_LONGEST_WAIT = 3600.0
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class CachedAsset:
    """One finished folder of the cache. `title` and `licence` are empty for a folder this version does not know."""

    name: str
    path: Path
    n_bytes: int
    title: str
    licence: str
    usable: bool


def cache_dir() -> Path:
    """The cache folder's path; it need not exist yet. AssetError where it would lie in a home that nobody has."""
    chosen = os.environ.get("SAESCOPE_CACHE")
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser().absolute()
        return (Path(base) if base else Path.home() / ".cache") / "saescope"
    except RuntimeError:
        whose = f"SAESCOPE_CACHE is {chosen}, whose home folder" if chosen else "your home folder"
        raise AssetError(f"{whose} cannot be found; set SAESCOPE_CACHE to a folder you can write to") from None


def asset_dir(name: str) -> Path:
    return cache_dir() / "assets" / name


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_record(folder: Path) -> dict[str, Any] | None:
    """The folder's `asset.json`, or None when it is absent or not JSON."""
    try:
        record = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write_record(folder: Path, asset: Asset, tools: dict[str, str]) -> None:
    """Write `asset.json`: the pins, the versions that converted them, and every file's size and sha256."""
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    record = {
        "schema": 1,
        "name": asset.name,
        "title": asset.title,
        "licence": asset.licence,
        "packages": [{"pin": wheel.pin, "sha256": wheel.sha256} for wheel in asset.wheels],
        "source_sha256": asset.sha256,
        "recipe": asset.recipe(),
        "made_with": tools,
        "files": files,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", "utf-8")


def is_usable(asset: Asset) -> bool:
    """Whether the asset lies in the cache, made from today's pins, with every file at its recorded size."""
    folder = asset_dir(asset.name)
    record = read_record(folder)
    if record is None or record.get("recipe") != asset.recipe():
        return False
    files = {name: folder / name for name in record["files"]}
    return all(path.is_file() and path.stat().st_size == record["files"][name]["bytes"] for name, path in files.items())


def list_cached() -> list[CachedAsset]:
    """Every folder under `assets/`, by name."""
    known = {**MODELS, **CORPORA}
    found = []
    root = cache_dir() / "assets"
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if not folder.is_dir():
            continue
        asset = known.get(folder.name)
        found.append(
            CachedAsset(
                name=folder.name,
                path=folder,
                n_bytes=_bytes_under(folder),
                title=asset.title if asset else "",
                licence=asset.licence if asset else "",
                usable=asset is not None and is_usable(asset),
            )
        )
    return found


def remove(*names: str, waiting: Callable[[], None] = lambda: None) -> int:
    """Delete assets (of a bundle, each of its parts) from the cache and return the bytes freed.

    `waiting` is called once while another process fetches or deletes. UsageError when nothing of one of the names is cached;
    then all are still there.
    """
    cached = {entry.name: entry for entry in list_cached()}
    targets: dict[str, CachedAsset] = {}
    for name in names:
        wanted = [name] if name in cached else [asset.name for asset in lookup(name)]
        found = {part: cached[part] for part in wanted if part in cached}
        if not found:
            hint = nearest(name, cached) or "; `saescope cache` lists what is"
            raise UsageError(f"{name} is not in the cache {cache_dir()}{hint}")
        targets |= found
    freed = 0
    with exclusive(waiting) as work:
        # Another process may have deleted some while this one waited for the lock.
        for target in (one for one in targets.values() if one.path.exists()):
            # Renamed first: a half-deleted folder must never sit under a name that is read.
            doomed = work / target.name
            os.replace(target.path, doomed)
            shutil.rmtree(doomed)
            freed += target.n_bytes
    return freed


def clear(waiting: Callable[[], None] = lambda: None) -> int:
    """Delete every asset and whatever a killed process left; returns the bytes freed. `waiting` as for `remove`."""
    root = cache_dir()
    before = _bytes_under(root)
    if root.is_dir():
        with exclusive(waiting) as work:
            if (root / "assets").is_dir():
                os.replace(root / "assets", work / "assets")
    return before - _bytes_under(root)


def _bytes_under(folder: Path) -> int:
    """Of the files there, which another process may be fetching or deleting meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                total += (Path(parent) / name).stat().st_size
    return total


@contextmanager
def exclusive(waiting: Callable[[], None] = lambda: None) -> Iterator[Path]:
    """Hold the cache's lock and yield an empty work folder, which is gone afterwards whatever happens.

    `waiting` is called once when another process holds the lock.
    What a killed process left in it is swept first: whoever holds the lock is its only user.
    """
    root = cache_dir()
    work = root / "work"
    with legible_disk_errors():
        root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(root / "fetch.lock")
        try:
            _acquire(lock, waiting)
        except Timeout:
            raise AssetError(
                f"another process has held {root / 'fetch.lock'} for an hour; end it, then try again"
            ) from None
        try:
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
            lock.release()


def _acquire(lock: FileLock, waiting: Callable[[], None]) -> None:
    try:
        lock.acquire(timeout=1)
    except Timeout:
        waiting()
        lock.acquire(timeout=_LONGEST_WAIT)


def publish(made: Path, asset: Asset, work: Path) -> Path:
    """Move a finished folder to its name, in one rename; a stale one of that name goes."""
    target = asset_dir(asset.name)
    target.parent.mkdir(exist_ok=True)
    if target.exists():
        os.replace(target, work / f"stale-{asset.name}")
    os.replace(made, target)
    return target


def require_space(n_bytes: int, purpose: str) -> None:
    """AssetError when the cache's disk has less than `n_bytes` free."""
    free = shutil.disk_usage(cache_dir()).free
    if free < n_bytes:
        raise AssetError(
            f"{purpose} needs {n_bytes / 1e6:,.0f} MB free in {cache_dir()} and {free / 1e6:,.0f} MB are; "
            "free some, or set SAESCOPE_CACHE to a folder on another disk"
        )


def disk_full() -> AssetError:
    return AssetError(
        f"the disk of {cache_dir()} is full; nothing was left behind: free some space, "
        "or set SAESCOPE_CACHE to a folder on another disk"
    )


@contextmanager
def legible_disk_errors() -> Iterator[None]:
    """Turn the operating system's complaints about the cache folder into one AssetError line."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise disk_full() from error
        what = error.strerror or type(error).__name__
        raise AssetError(
            f"cannot use {error.filename or cache_dir()}: {what}; set SAESCOPE_CACHE to a folder you can write to"
        ) from error
