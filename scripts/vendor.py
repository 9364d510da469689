"""The page's third-party modules: check the shipped files, or make them again from their npm packages.

python scripts/vendor.py                      every file is what vendor.json says
python scripts/vendor.py --recreate           fetch the packages with npm and write the files again
python scripts/vendor.py --recreate --from D  the same from unpacked packages: D/NAME-VERSION/ (with / in a name as -)

A page under `script-src 'self'` has no import map, so an import of another package is made an import of its file. Those
substitutions, and the removal of the source map's address, are all that is changed; vendor.json lists them.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

VENDOR = Path(__file__).resolve().parents[1] / "src" / "saescope" / "server" / "web" / "vendor"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def folder_name(package: str, version: str) -> str:
    return f"{package.lstrip('@').replace('/', '-')}-{version}"


def fetch(package: str, version: str, into: Path) -> Path:
    """The unpacked package, fetched with npm's own client."""
    subprocess.run(["npm", "pack", "--silent", f"{package}@{version}"], cwd=into, check=True, stdout=subprocess.DEVNULL)
    name = folder_name(package, version)
    with tarfile.open(into / f"{name}.tgz") as archive:
        archive.extractall(into / name, filter="data")
    return into / name / "package"


def changed(text: str, changes: list[dict[str, str]]) -> str:
    for change in changes:
        if change["find"] not in text:
            raise SystemExit(f"vendor.py: {change['find']!r} is not in the original; the package has changed")
        text = text.replace(change["find"], change["replace"])
    return text


def recreate(entries: list[dict], source: Path | None) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        for entry in entries:
            package, version = entry["package"], entry["version"]
            root = source / folder_name(package, version) if source else fetch(package, version, Path(scratch))
            original = (root / entry["source"]).read_bytes()
            if sha256(original) != entry["sha256_original"]:
                raise SystemExit(f"vendor.py: {package}@{version} {entry['source']} does not have the recorded sha256")
            (VENDOR / entry["file"]).write_bytes(changed(original.decode(), entry["changes"]).encode())
            (VENDOR / entry["licence_file"]).write_bytes((root / "LICENSE").read_bytes())


def problems(entries: list[dict]) -> list[str]:
    """What differs from vendor.json, one line each."""
    found = []
    known = {"vendor.json", "README.md"}
    for entry in entries:
        known |= {entry["file"], entry["licence_file"]}
        path = VENDOR / entry["file"]
        if not path.is_file():
            found.append(f"{entry['file']}: missing")
            continue
        text = path.read_text(encoding="utf-8")
        if sha256(text.encode()) != entry["sha256"]:
            found.append(f"{entry['file']}: sha256 is not the recorded one")
        if not (VENDOR / entry["licence_file"]).is_file():
            found.append(f"{entry['licence_file']}: missing")
    found += [f"{path.name}: not in vendor.json" for path in sorted(VENDOR.iterdir()) if path.name not in known]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="Check or recreate the page's vendored modules.")
    parser.add_argument("--recreate", action="store_true", help="write the files again from their packages")
    parser.add_argument("--from", dest="source", type=Path, help="folder of unpacked packages, instead of npm")
    arguments = parser.parse_args()
    entries = json.loads((VENDOR / "vendor.json").read_text(encoding="utf-8"))["files"]
    if arguments.recreate:
        recreate(entries, arguments.source)
    found = problems(entries)
    for line in found:
        print(f"vendor.py: {line}", file=sys.stderr)
    sys.exit(1 if found else print(f"{len(entries)} vendored files are as recorded"))


if __name__ == "__main__":
    main()
