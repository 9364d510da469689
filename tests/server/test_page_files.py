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


def imports(path: Path) -> list[str]:
    found = re.findall(r"(?:import|export)\s*(?:\{[^}]*\}|\w+)\s*from\s*\"([^\"]+)\"", path.read_text(encoding="utf-8"))
    assert all(name.startswith(".") for name in found), f"{path.name} imports {found}"
    return found


def loaded() -> set[Path]:
    """What a browser loads for the page."""
    first = WEB / "index.html"
    known = {first}
    waiting = [WEB / name for name in re.findall(r'"static/([^"]+)"', first.read_text(encoding="utf-8"))]
    while waiting:
        path = waiting.pop().resolve()
        if path in known:
            continue
        assert path.is_file(), f"{path} is imported and missing"
        known.add(path)
        if path.suffix == ".js":
            waiting += [path.parent / name for name in imports(path)]
    return known


def test_the_page_is_light_and_has_no_file_that_nothing_loads() -> None:
    page = loaded()
    own = [path for path in page if "vendor" not in path.relative_to(WEB).parts]
    assert sum(path.stat().st_size for path in own) < 160 * 1024
    # The widget is for notebooks.
    assert [path.name for path in OWN if path not in page and not path.name.startswith("widget.")] == []
    assert len([path for path in page if path not in own]) == 5
