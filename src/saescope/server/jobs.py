"""Long work that the page shows: indexes that some process builds, and labelling that this server does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from saescope.errors import SaescopeError, UsageError
from saescope.features.index.progress import PROGRESS
from saescope.server.plain_text import one_line
from saescope.server.served_coder import ServedCoder
from saescope.server.workspace import Workspace, slug

Tell = Callable[[str, int, int], None]
# The labeller of each kind of labels: it writes a file of labels into the index and tells how far it is.
Labellers = dict[str, Callable[[ServedCoder, Tell], None]]


@dataclass
class _Running:
    id: str
    kind: str
    coder: str
    stage: str = ""
    done: int = 0
    total: int = 0
    state: str = "running"
    message: str = ""
    thread: threading.Thread | None = field(default=None, repr=False)

    def shown(self) -> dict[str, Any]:
        names = ("id", "kind", "coder", "stage", "done", "total", "state", "message")
        return {name: getattr(self, name) for name in names}


class Jobs:
    def __init__(self, workspace: Workspace, labellers: Labellers) -> None:
        self._workspace, self._labellers = workspace, labellers
        self._own: list[_Running] = []
        self._lock = threading.Lock()

    def shown(self) -> list[dict[str, Any]]:
        """`answers.Job`s: this server's, then builds below the workspace, then what cannot be opened and why."""
        self._workspace.refresh()
        found = [job.shown() for job in self._own]
        found += [_build(folder, progress) for folder, progress in self._workspace.building.items()]
        found += [_failed(slug(str(folder)), folder.name, text) for folder, text in self._workspace.problems.items()]
        for coder in self._workspace.coders.values():
            if elsewhere := _labelling(coder):
                found.append(elsewhere)
            if coder.label_problem:
                found.append(_failed(f"labels-{coder.id}", coder.id, coder.label_problem))
        return found

    def label(self, coder: ServedCoder, kind: str) -> dict[str, Any]:
        """Begin to label a coder's features; the job that is at it already, where there is one."""
        if kind not in self._labellers:
            raise UsageError(f"this server cannot make {kind} labels; run saescope label on {coder.index.path}")
        with self._lock:
            for job in self._own:
                if job.coder == coder.id and job.state == "running":
                    return job.shown()
            job = _Running(f"label-{len(self._own) + 1}", kind, coder.id, "begin")
            self._own.append(job)
            job.thread = threading.Thread(target=self._work, args=(job, coder), name=f"saescope-{job.id}", daemon=True)
            job.thread.start()
        return job.shown()

    def _work(self, job: _Running, coder: ServedCoder) -> None:
        def tell(stage: str, done: int, total: int) -> None:
            job.stage, job.done, job.total = stage, done, total

        try:
            self._labellers[job.kind](coder, tell)
            job.state = "done"
        except SaescopeError as error:
            job.message, job.state = one_line(str(error)), "failed"
        except Exception as error:
            job.message, job.state = one_line(f"{type(error).__name__}: {error}")[:300], "failed"


def _build(folder: Path, progress: dict[str, Any]) -> dict[str, Any]:
    alive = _is_alive(progress.get("pid"))
    return {
        "id": slug(f"index-{folder.name}-{progress['name']}"),
        "kind": "index",
        "coder": one_line(str(progress["name"])),
        "stage": one_line(str(progress.get("stage", ""))),
        "done": _whole(progress.get("done")),
        "total": _whole(progress.get("total")),
        "state": "running" if alive else "failed",
        "message": "" if alive else f"{folder} is unfinished; the saescope index command that began it goes on",
    }


def _labelling(coder: ServedCoder) -> dict[str, Any] | None:
    """Labels that another process makes of a finished index."""
    try:
        progress = json.loads((coder.index.path / PROGRESS).read_bytes())
        if not _is_alive(progress["pid"]):
            # Left behind by one that was killed.
            return None
        return {
            "id": f"labelling-{coder.id}",
            "kind": one_line(str(progress["kind"])),
            "coder": coder.id,
            "stage": one_line(str(progress["stage"])),
            "done": int(progress["done"]),
            "total": int(progress["total"]),
            "state": "running",
            "message": "",
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _failed(identity: str, coder: str, message: str) -> dict[str, Any]:
    return {
        "id": identity,
        "kind": "index",
        "coder": one_line(coder),
        "stage": "open",
        "done": 0,
        "total": 0,
        "state": "failed",
        "message": one_line(message),
    }


def _whole(number: Any) -> int:
    return number if isinstance(number, int) else 0


def _is_alive(pid: Any) -> bool:
    # Not os.kill(pid, 0), which on Windows interrupts the process.
    try:
        return isinstance(pid, int) and pid > 0 and psutil.pid_exists(pid)
    except OverflowError:
        return False
