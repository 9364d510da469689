"""What a language model has said so far, kept as it comes: a line a feature, only ever added to.

INDEX/labels/answers-ID.jsonl; ID stands for the index, the model and every option that shapes a question, so answers to other
questions are never taken for these. A line that a crash cut short is not read, and the next one begins on a line of its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path
from typing import Any, BinaryIO, Self


class Answers:
    """`with Answers(folder, request) as answers`: `answers.known` by feature, `answers.add(feature, record)`. Nothing is
    written before the first of these."""

    def __init__(self, folder: Path, request: dict[str, Any]) -> None:
        digest = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()[:16]
        self.path = folder / f"answers-{digest}.jsonl"
        self.known: dict[int, dict[str, Any]] = {}
        self._torn = self._read()
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None

    def _read(self) -> bool:
        """Fills `known`; whether the last line is cut short."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return False
        for line in data.split(b"\n"):
            try:
                record = json.loads(line)
                self.known[int(record["feature"])] = record
            except (ValueError, KeyError, TypeError):
                continue
        return bool(data) and not data.endswith(b"\n")

    def add(self, feature: int, record: dict[str, Any]) -> None:
        """On the disk when this returns."""
        line = json.dumps({"feature": feature, **record}).encode() + b"\n"
        with self._lock:
            if self._file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self._file = self.path.open("ab")
                if self._torn:
                    self._file.write(b"\n")
            self._file.write(line)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.known[feature] = {"feature": feature, **record}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()
