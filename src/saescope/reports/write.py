"""`metrics.json` and `report.html` in a folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from saescope.errors import OccupiedError, SaescopeError
from saescope.evaluation import Evaluation, record
from saescope.reports.page import GENERATOR, report_page
from saescope.text import TokenText
from saescope.whole_files import write_whole

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

METRICS_FILE, REPORT_FILE = "metrics.json", "report.html"


def claim(folder: str | Path) -> Path:
    """Make `folder` ready to take a report, before the work that leads to it. OccupiedError where files of those names that
    saescope did not write would be lost; SaescopeError where nothing can be written."""
    folder = Path(folder)
    for name, ours in ((METRICS_FILE, _is_metrics), (REPORT_FILE, _is_report)):
        if (folder / name).exists() and not ours(folder / name):
            raise OccupiedError(f"{folder / name} was not written by saescope eval; choose another --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=folder).close()
    except OSError as error:
        raise SaescopeError(f"cannot write to {folder}: {error.strerror or error}; choose another --out") from None
    return folder


def write_report(evaluations: Sequence[Evaluation], folder: str | Path, tokenizer: PreTrainedTokenizerBase) -> Path:
    """Write both files and return the report's path. Each appears under its name only when whole."""
    folder = claim(folder)
    page = report_page(evaluations, TokenText(tokenizer).pieces)
    numbers = json.dumps(record(evaluations), indent=1, allow_nan=False) + "\n"
    write_whole(folder / METRICS_FILE, numbers)
    return write_whole(folder / REPORT_FILE, page)


def _is_metrics(path: Path) -> bool:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    first = content[0] if isinstance(content, list) and content else content
    return isinstance(first, dict) and {"schema", "coder", "controls"} <= first.keys()


def _is_report(path: Path) -> bool:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return f'name="generator" content="{GENERATOR}"' in file.read(4096)
    except OSError:
        return False
