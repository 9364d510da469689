"""Labelled texts out of a folder: one table a file, or one class a file.

    NAME.csv, .jsonl, .json          rows with a text and a label; a group where there is one
    NAME_train.…, NAME_test.…        one set, split as it came (`val`, `valid`, `validation` count as test)
    CLASS_train.…, CLASS_test.…      without a label column, two or more of them in a folder below: each file a class of
                                     one set named as the folder

Columns go by the names of `COLUMNS`, or by those that a `columns.json` in the folder declares for a file:
{"larger_than.csv": {"text": "statement", "label": "label", "group": "n1"}}.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saescope.errors import TextError, UsageError, nearest

COLUMNS: dict[str, tuple[str, ...]] = {
    "text": ("text", "statement", "sentence", "instruction", "prompt", "question", "clean_prefix"),
    "label": ("label", "class", "case", "answer_matching_behavior"),
    "group": ("group", "subject", "entity", "city"),
}
DECLARED = "columns.json"
_SPLITS = {"train": False, "test": True, "val": True, "valid": True, "validation": True}
_SUFFIX = re.compile(rf"^(?P<name>.+?)[_.-](?P<split>{'|'.join(_SPLITS)})$")
# csv's own limit of 131,072 characters a field is less than a long document.
_LONGEST_FIELD = 2**24


@dataclass(frozen=True)
class LabelledSet:
    """Texts with a label each. group: None where no column gives one. test: a split that came with the files, else None.
    skipped: rows left out, by reason."""

    name: str
    texts: list[str]
    labels: list[str]
    groups: list[str] | None
    test: list[bool] | None
    skipped: dict[str, int]
    columns: dict[str, str]

    @property
    def classes(self) -> list[str]:
        return sorted(set(self.labels))


@dataclass(frozen=True)
class _Table:
    """One file. labels: None without a label column."""

    path: Path
    texts: list[str]
    labels: list[str] | None
    groups: list[str] | None
    skipped: dict[str, int]
    columns: dict[str, str]

    @property
    def name(self) -> str:
        found = _SUFFIX.match(self.path.stem)
        return found["name"] if found else self.path.stem

    @property
    def test(self) -> bool | None:
        found = _SUFFIX.match(self.path.stem)
        return _SPLITS[found["split"]] if found else None


def read_labelled_sets(folder: Path) -> list[LabelledSet]:
    """Every set in the folder and those below it, by name. UsageError without one, TextError on a file that cannot be read
    or is of no shape above: one line with the file and what it needs."""
    if not folder.is_dir():
        raise UsageError(f"no folder of labelled sets at {folder}; give one with .csv, .jsonl or .json files")
    declared = _declared(folder)
    paths = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in _READERS
        and path.name != DECLARED
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not paths:
        raise UsageError(f"no labelled set in {folder}: no file in it ends in {', '.join(_READERS)}")
    if unknown := set(declared) - {path.relative_to(folder).as_posix() for path in paths}:
        raise UsageError(f"{folder / DECLARED} names {sorted(unknown)[0]}, which is not in {folder}")
    together: dict[tuple[str, ...], list[_Table]] = {}
    for path in paths:
        relative = path.relative_to(folder)
        table = _read(path, declared.get(relative.as_posix(), {}))
        where = relative.parent.parts
        if table.labels is None:
            _check_class_file(table, where)
            together.setdefault((*where, ""), []).append(table)
        else:
            together.setdefault((*where, table.name), []).append(table)
    return [_joined("/".join(part for part in key if part), tables) for key, tables in sorted(together.items())]


def _check_class_file(table: _Table, where: tuple[str, ...]) -> None:
    if not where:
        raise TextError(
            f"{table.path} has no label column (one of {', '.join(COLUMNS['label'])}); add one, or name it in "
            f"{DECLARED}, or put one file a class in a folder of their own"
        )


def _joined(name: str, tables: list[_Table]) -> LabelledSet:
    labelled = [table.labels or [table.name] * len(table.texts) for table in tables]
    labels = [label for part in labelled for label in part]
    if len(set(labels)) < 2:
        file = tables[0].path if len(tables) == 1 else f"{tables[0].path} and {len(tables) - 1} more"
        only = f"only the label {labels[0]!r}" if labels else "no usable row"
        raise TextError(f"{file} has {only}; a labelled set needs two labels or more")
    splits = [table.test for table in tables]
    test = None
    if True in splits and False in splits:
        test = [bool(split) for table, split in zip(tables, splits, strict=True) for _ in table.texts]
    groups = None
    if all(table.groups is not None for table in tables):
        groups = [group for table in tables for group in table.groups or ()]
    skipped: dict[str, int] = {}
    for table in tables:
        for reason, count in table.skipped.items():
            skipped[reason] = skipped.get(reason, 0) + count
    texts = [text for table in tables for text in table.texts]
    return _without_repeated(LabelledSet(name, texts, labels, groups, test, skipped, tables[0].columns))


def _without_repeated(found: LabelledSet) -> LabelledSet:
    """Each text once. One that comes with two labels says nothing of either and goes; one in both splits leaves training."""
    own: dict[str, set[str]] = {}
    for text, label in zip(found.texts, found.labels, strict=True):
        own.setdefault(text, set()).add(label)
    places: dict[str, int] = {}
    for place, text in enumerate(found.texts):
        if text not in places or (found.test is not None and found.test[place] and not found.test[places[text]]):
            places[text] = place
    kept = sorted(place for text, place in places.items() if len(own[text]) == 1)
    test = None if found.test is None else [found.test[place] for place in kept]
    if test is not None and (all(test) or not any(test)):
        # The same texts on both sides: the split was of something else.
        test = None
    contradicted = sum(len(own[text]) > 1 for text in found.texts)
    counts = {"repeated": len(found.texts) - contradicted - len(kept), "of two labels": contradicted}
    return LabelledSet(
        found.name,
        [found.texts[place] for place in kept],
        [found.labels[place] for place in kept],
        None if found.groups is None else [found.groups[place] for place in kept],
        test,
        found.skipped | {reason: count for reason, count in counts.items() if count},
        found.columns,
    )


def _read(path: Path, declared: Mapping[str, str]) -> _Table:
    try:
        records = list(_READERS[path.suffix.lower()](path))
    except OSError as error:
        raise TextError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise TextError(f"{path} is not UTF-8 (at byte {error.start}); convert it or drop it") from None
    if not records:
        raise TextError(f"{path} has no rows; fill or delete it")
    columns = _columns(path, records, declared)
    texts, labels, groups = [], [], []
    skipped: dict[str, int] = {}
    for record in records:
        text = record.get(columns["text"])
        label = _shown(record.get(columns["label"])) if "label" in columns else ""
        group = _shown(record.get(columns["group"])) if "group" in columns else ""
        reason = _why_not(text, label, group, columns)
        if reason:
            skipped[reason] = skipped.get(reason, 0) + 1
            continue
        texts.append(str(text).strip())
        labels.append(label)
        groups.append(group)
    return _Table(
        path, texts, labels if "label" in columns else None, groups if "group" in columns else None, skipped, columns
    )


def _why_not(text: Any, label: str, group: str, columns: Mapping[str, str]) -> str:
    if not isinstance(text, str) or not text.strip():
        return "without text"
    if "label" in columns and not label:
        return "without label"
    if "group" in columns and not group:
        return "without group"
    return ""


def _shown(value: Any) -> str:
    """A label or group as text: 1, 1.0, true and "1" are as the file has them; null and blanks are none."""
    if value is None or isinstance(value, dict | list):
        return ""
    return str(value).strip()


def _columns(path: Path, records: list[dict[str, Any]], declared: Mapping[str, str]) -> dict[str, str]:
    """The column of each role: the declared one, else the first known name that some row has a value for."""
    present = list(dict.fromkeys(column for record in records for column in record))
    filled = {
        column
        for record in records
        for column, value in record.items()
        if _shown(value) or isinstance(value, dict | list)
    }
    found = {}
    for role, names in COLUMNS.items():
        if role in declared:
            if declared[role] not in present:
                raise TextError(
                    f"{path} has no column {declared[role]!r}, which {DECLARED} gives as its {role}; it has "
                    f"{', '.join(present)}{nearest(declared[role], present)}"
                )
            found[role] = declared[role]
        elif known := [name for name in names if name in filled]:
            found[role] = known[0]
    if "text" not in found:
        raise TextError(
            f"{path} has no text column (one of {', '.join(COLUMNS['text'])}), only {', '.join(present) or 'nothing'}; "
            f"rename one, or name it in {DECLARED}"
        )
    return found


def _declared(folder: Path) -> dict[str, dict[str, str]]:
    path = folder / DECLARED
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TextError(f"{path} is not readable JSON ({str(error).splitlines()[0]})") from None
    shape = isinstance(found, dict) and all(
        isinstance(roles, dict) and roles.keys() <= COLUMNS.keys() and all(isinstance(v, str) for v in roles.values())
        for roles in found.values()
    )
    if not shape:
        example = '{"file.csv": {"text": "statement", "label": "label", "group": "city"}}'
        raise TextError(f"{path} should be like {example}, with text, label and group as roles")
    return dict(found)


def _read_csv(path: Path) -> Iterable[dict[str, Any]]:
    csv.field_size_limit(_LONGEST_FIELD)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        try:
            for row in reader:
                if None in row:
                    raise TextError(
                        f"{path}:{reader.line_num} has more fields than the header's {len(reader.fieldnames or ())}; "
                        "quote the commas in it"
                    )
                yield row
        except csv.Error as error:
            raise TextError(f"{path}:{reader.line_num} is not CSV ({error})") from None


def _read_json_lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield _object(_json(line, f"{path}:{number}"), f"{path}:{number}")


def _read_json(path: Path) -> Iterable[dict[str, Any]]:
    found = _json(path.read_text(encoding="utf-8-sig"), str(path))
    if not isinstance(found, list):
        raise TextError(
            f"{path} is a JSON {type(found).__name__}, not a list of rows (objects with a text and a label)"
        )
    for number, row in enumerate(found, start=1):
        yield _object(row, f"{path}, row {number},")


def _json(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise TextError(f"{place} is not JSON ({error}); fix or delete it") from None


def _object(row: Any, place: str) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise TextError(f"{place} is a JSON {type(row).__name__}, not an object with a text and a label")
    return row


_READERS = {".csv": _read_csv, ".jsonl": _read_json_lines, ".json": _read_json}
