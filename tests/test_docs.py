"""Every code block of README and docs does what it says, on the real SmolLM2, with sizes cut down."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer

import saescope
from saescope import cli

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LANGUAGES = {"sh", "python", "text"}
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What is not typed in earnest here: it installs, downloads, deletes or takes a quarter of an hour. Its words are checked.
NOT_RUN = (
    "make ",
    "pip ",
    "saescope serve",
    "saescope fetch gemma3-270m",
    "saescope cache remove",
    "SAESCOPE_WHEELS=",
    "saescope demo",
)
# Pages whose reader has built an index before.
WITH_INDEX = {"exports.md", "serve.md"}
SMALLER = (
    (r"--tokens \d{4,}", "--tokens 2500"),
    (r"--tokens 0", "--tokens 256"),
    (r"--measure \d+", "--measure 4096"),
    (r"--text \d+", "--text 1024"),
    (r"--corpus demo --suite probing", "--corpus my-texts --suite probing"),
    (r"saescope bench", "saescope bench --pairs 1 --d-sae 256"),
    (r"--ce-tokens \d+", "--ce-tokens 128"),
    (r"--examples \d+", "--examples 30"),
    (r"--d-sae \d+", "--d-sae 256"),
    (r"mlp_(in|out)\.\*", r"mlp_\1.28-29"),
    (r"--preset 16k", "--preset small"),
    (r"tokens=\d{6,}", "tokens=4096"),
    (r"--passes \d+", "--passes 1"),
    (r"\b400_000\b", "2_500"),
    (r"\b65536\b", "256"),
    (r"d_sae=\d+", "d_sae=256"),
    (r"batch_size=4096", "batch_size=1024"),
    (r"ActivationCache\(lm\)\)", "ActivationCache(lm), examples=30)"),
)


def blocks(page: Path) -> list[tuple[str, str]]:
    return FENCE.findall(page.read_text())


def cut_down(code: str) -> str:
    for pattern, replacement in SMALLER:
        code = re.sub(pattern, replacement, code)
    return code


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    cli._register()
    return cli.app


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory, app: typer.Typer) -> Path:
    """What a reader of any page has made before: a store, a run, another run, some texts."""
    folder = tmp_path_factory.mktemp("docs")
    store, run = folder / "store", folder / "run"
    command(app, f"saescope harvest --model smollm2 --corpus demo --points resid_post.14 --tokens 2500 --out {store}")
    for out in (run, folder / "another"):
        command(
            app, f"saescope train {store} --arch batchtopk --d-sae 256 --l0 32 --passes 3 --batch-size 1024 --out {out}"
        )
    (folder / "my-texts").mkdir()
    (folder / "my-texts" / "a.txt").write_text("A text of one's own, about the sea and its weather. " * 60)
    (folder / "my-sets").mkdir()
    rows = [f"Word {i} is {('short', 'rather long')[i % 2]} today.,{i % 2},{i // 2}" for i in range(80)]
    (folder / "my-sets" / "long.csv").write_text("\n".join(["text,label,group", *rows]))
    return folder


@pytest.fixture
def workplace(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for part in prepared.iterdir():
        (tmp_path / part.name).symlink_to(part)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SAESCOPE_QUIET", "1")
    return tmp_path


def command(app: typer.Typer, line: str) -> None:
    words = shlex.split(line, comments=True)
    if "=" in words[0]:
        name, value = words[0].split("=", 1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(name, value)
            command(app, shlex.join(words[1:]))
        return
    assert words[0] == "saescope", f"not a command the tests know: {line}"
    if words[1] in ("eval", "sweep") and "--tokens" not in words:
        words += ["--tokens", "256", "--ce-tokens", "128"]
    if "--suite" in words and "--examples" not in words:
        words += ["--examples", "30"]
    app(words[1:], standalone_mode=False)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_block_has_a_language_and_every_link_a_target(page: Path) -> None:
    assert {language for language, _ in blocks(page)} <= LANGUAGES
    for target in re.findall(r"\]\((?!http|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.real
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_code_of_page(page: Path, workplace: Path, app: typer.Typer) -> None:
    for made in {"README.md": ("store", "run"), "training.md": ("run",)}.get(page.name, ()):
        # These pages make what the others are given.
        (workplace / made).unlink()
    if page.name in WITH_INDEX:
        command(app, "saescope index run/coder --store store")
    namespace: dict[str, object] = {}
    for language, code in blocks(page):
        if language == "python":
            exec(compile(cut_down(code), str(page), "exec"), namespace)
        if language == "sh":
            for line in cut_down(code).replace("\\\n", " ").splitlines():
                if line.strip() and not line.startswith("#") and not line.startswith(NOT_RUN):
                    command(app, line)


def test_public_names_exist() -> None:
    for name in saescope.__all__:
        assert getattr(saescope, name) is not None
