"""What the page is made of: no third-party address, nothing that the policy would refuse, vendored files as recorded."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "src" / "saescope" / "server" / "web"
OWN = [path for path in sorted(WEB.rglob("*")) if path.is_file() and "vendor" not in path.relative_to(WEB).parts]


def test_vendored_modules_are_as_recorded(tmp_path: Path) -> None:
    check = [sys.executable, str(ROOT / "scripts" / "vendor.py")]
    assert subprocess.run(check, capture_output=True, text=True).returncode == 0
    # The check would see a changed byte.
    copy = tmp_path / "a" / "src" / "saescope" / "server" / "web" / "vendor"
    copy.mkdir(parents=True)
    for path in (WEB / "vendor").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / "htm.js").write_bytes((copy / "htm.js").read_bytes() + b" ")
    script = tmp_path / "a" / "scripts" / "vendor.py"
    script.parent.mkdir()
    script.write_bytes((ROOT / "scripts" / "vendor.py").read_bytes())
    changed = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert changed.returncode == 1
    assert "htm.js: sha256 is not the recorded one" in changed.stderr


@pytest.mark.parametrize("path", OWN, ids=lambda path: str(path.relative_to(WEB)))
def test_a_file_of_the_page_makes_no_markup_from_text_and_asks_no_other_site(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert forbidden not in text
    addresses = [found for found in re.findall(r"https?://[^\s\"'`)]+", text) if "www.w3.org" not in found]
    assert addresses == []


def test_the_first_file_has_nothing_inline() -> None:
    text = (WEB / "index.html").read_text(encoding="utf-8")
    assert re.findall(r"<script(?![^>]*\bsrc=)", text) == []
    assert re.findall(r"<style|\sstyle=|\son\w+=|importmap", text) == []


def test_every_import_names_a_file_that_is_there() -> None:
    for path in WEB.rglob("*.js"):
        names = re.findall(
            r"(?:import|export)\s*(?:\{[^}]*\}|\w+)\s*from\s*\"([^\"]+)\"", path.read_text(encoding="utf-8")
        )
        assert names or "vendor" in path.parts or path.name in ("numbers.js",), path
        for name in names:
            assert name.startswith("."), f"{path.name} imports {name}"
            assert (path.parent / name).is_file(), f"{path.name} imports {name}"


def test_the_page_is_light() -> None:
    assert sum(path.stat().st_size for path in OWN) < 150 * 1024
