"""Labelled sets: every shape of file, and one line for each that is wrong."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.measured import tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.errors import SaescopeError, TextError, UsageError
from saescope.evaluation.probing import COLUMNS, LabelledSet, read_labelled_sets
from saescope.evaluation.probing.corpus_tasks import NEXT_KINDS, TOKEN_KINDS
from saescope.evaluation.probing.labelled_tasks import labelled_tasks, labelled_texts
from saescope.text import SequenceOptions


def write(folder: Path, **files: Any) -> Path:
    """NAME__SUFFIX = text, or rows as JSON (lines); `__` in the name parts folders."""
    for name, content in files.items():
        *parts, suffix = name.split("__")
        path = folder.joinpath(*parts).with_suffix(f".{suffix}")
        path.parent.mkdir(parents=True, exist_ok=True)
        if suffix == "jsonl" and not isinstance(content, str):
            content = "\n".join(json.dumps(row) for row in content)
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def only(folder: Path) -> LabelledSet:
    (found,) = read_labelled_sets(folder)
    return found


def rows(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def test_csv_with_aliases_and_a_group(tmp_path: Path) -> None:
    found = only(
        write(tmp_path, cities__csv='statement,label,city,country\n"Rome, it is.",1,Rome,Italy\nNo.,0,Lodz,Peru\n')
    )
    assert (found.name, found.texts, found.labels) == ("cities", ["Rome, it is.", "No."], ["1", "0"])
    assert found.groups == ["Rome", "Lodz"]
    assert found.columns == {"text": "statement", "label": "label", "group": "city"}
    assert found.test is None


@pytest.mark.parametrize("suffix", ["jsonl", "json"])
def test_json_with_labels_that_are_not_text(tmp_path: Path, suffix: str) -> None:
    content = rows(text=["a", "b", "c"], label=[True, False, 0])
    found = only(write(tmp_path, **{f"x__{suffix}": content}))
    assert found.labels == ["True", "False", "0"]
    assert found.groups is None


def test_answers_as_labels_keep_to_the_statement(tmp_path: Path) -> None:
    content = rows(question=["q1", "q2"], statement=["s1", "s2"], answer_matching_behavior=[" Yes", " No"])
    found = only(write(tmp_path, x__jsonl=content))
    assert (found.texts, found.labels) == (["s1", "s2"], ["Yes", "No"])


def test_train_and_test_files_are_one_set_with_its_split(tmp_path: Path) -> None:
    folder = write(
        tmp_path, x_train__jsonl=rows(text=["a", "b"], label=["p", "q"]), x_val__jsonl=rows(text=["c"], label=["p"])
    )
    found = only(folder)
    assert (found.name, found.texts, found.test) == ("x", ["c", "a", "b"], [True, False, False]) or (
        found.name,
        found.texts,
        found.test,
    ) == ("x", ["a", "b", "c"], [False, False, True])


def test_files_without_labels_in_one_folder_are_its_classes(tmp_path: Path) -> None:
    def said(*texts: str) -> list[dict[str, Any]]:
        return [{"instruction": text, "category": None} for text in texts]

    folder = write(
        tmp_path,
        refusal__harmful_train__json=said("steal", "hack"),
        refusal__harmful_val__json=said("burn"),
        refusal__harmless_train__json=said("bake", "steal"),
        refusal__harmless_val__json=said("sing", "bake"),
    )
    found = only(folder)
    by_text = dict(zip(found.texts, zip(found.labels, found.test or [], strict=True), strict=True))
    assert found.name == "refusal"
    # `steal` comes with both labels, `bake` in both splits.
    assert by_text == {
        "hack": ("harmful", False),
        "burn": ("harmful", True),
        "bake": ("harmless", True),
        "sing": ("harmless", True),
    }
    assert found.skipped == {"repeated": 1, "of two labels": 2}


def test_a_split_of_repeated_texts_is_none(tmp_path: Path) -> None:
    same = rows(clean_prefix=["The uncle", "The uncles"], case=["singular", "plural"])
    found = only(write(tmp_path, simple_train__jsonl=same * 3, simple_test__jsonl=same))
    assert sorted(found.texts) == ["The uncle", "The uncles"]
    assert found.test is None


def test_declared_columns_go_first(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        columns__json={"in/x.csv": {"text": "b", "label": "c", "group": "n"}},
        in__x__csv="text,b,label,c,n\nt1,u1,1,p,7\nt2,u2,1,q,8\n",
    )
    found = only(folder)
    assert (found.name, found.texts, found.labels, found.groups) == ("in/x", ["u1", "u2"], ["p", "q"], ["7", "8"])


def test_bad_rows_are_counted(tmp_path: Path) -> None:
    content = 'text,label,group\na,1,g\n"  ",1,g\nb,,g\nc,0,\nd,0,h\nd,0,h\n'
    found = only(write(tmp_path, x__csv=content))
    assert found.texts == ["a", "d"]
    assert found.skipped == {"without text": 1, "without label": 1, "without group": 1, "repeated": 1}


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x__csv", "a,b\n1,2\n", "x.csv has no text column .*text, statement.* only a, b"),
        ("x__csv", "text\nhello\n", "x.csv has no label column .*label, class"),
        ("x__csv", "text,label\nhello,1\nbye,1\n", "x.csv has only the label '1'"),
        ("x__csv", "text,label\n,1\n", "x.csv has no text column"),
        ("x__csv", "text,label\n", "x.csv has no rows"),
        ("x__csv", "text,label\na,b,1\n", "x.csv:2 has more fields than the header's 2"),
        ("x__jsonl", '{"text": "a", "label": 1}\n{"text"', "x.jsonl:2 is not JSON"),
        ("x__jsonl", "[1]", "x.jsonl:1 is a JSON list"),
        ("x__json", {"text": "a"}, "x.json is a JSON dict, not a list of rows"),
        ("x__json", ["a"], "x.json, row 1, is a JSON str"),
        ("x__json", "", "x.json is not JSON"),
        ("columns__json", {"x.csv": {"words": "a"}}, "no labelled set|columns.json should be like"),
        ("x__txt", "a", "no labelled set in .*csv, .jsonl, .json"),
    ],
)
def test_each_bad_file_is_one_line(tmp_path: Path, name: str, content: Any, said: str) -> None:
    with pytest.raises(SaescopeError, match=said) as error:
        read_labelled_sets(write(tmp_path, **{name: content}))
    assert "\n" not in str(error.value)


def test_bad_declarations_and_folders_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder of labelled sets"):
        read_labelled_sets(tmp_path / "nowhere")
    write(tmp_path, x__csv="sentence_1,label\na,1\nb,0\n", columns__json={"x.csv": {"text": "sentence1"}})
    with pytest.raises(TextError, match=r"no column 'sentence1', .*nearest: sentence_1"):
        read_labelled_sets(tmp_path)
    write(tmp_path, columns__json={"y.csv": {}})
    with pytest.raises(UsageError, match="names y"):
        read_labelled_sets(tmp_path)
    (tmp_path / "columns.json").unlink()
    (tmp_path / "x.csv").write_bytes(b"text,label\n\xff,1\n")
    with pytest.raises(TextError, match="not UTF-8"):
        read_labelled_sets(tmp_path)


def test_two_labels_are_one_task_and_more_are_one_a_label(
    tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    lm = tiny_lm(byte_tokenizer)
    n = 90
    texts = [f"token {number}" for number in range(n)]
    write(tmp_path, two__jsonl=rows(text=texts, label=[i % 2 for i in range(n)], group=[i // 2 for i in range(n)]))
    write(tmp_path, three__jsonl=rows(text=texts, label=["abc"[i % 3] for i in range(n)]))
    by_name = {found.name: found for found in read_labelled_sets(tmp_path)}

    def tasks(name: str, most: int) -> list[Any]:
        drawn = labelled_texts(by_name[name], lm, SequenceOptions(), most=most, seed=0)
        for text, row in zip(drawn.texts, drawn.row, strict=True):
            assert lm.tokenizer.decode(text) == by_name[name].texts[row]
        found = labelled_tasks(drawn, np.ones(len(drawn.texts), dtype=bool))
        for task in found:
            said = [by_name[name].labels[row] for row in drawn.row]
            assert task.label.tolist() == [label == task.facts["label"] for label in said]
        return found

    (two,) = tasks("two", 1000)
    assert two.facts["label"] == "1"
    assert two.facts["grouped_by"] == "group"
    assert len(np.unique(two.group)) == n // 2
    three = tasks("three", 1000)
    assert [task.name for task in three] == ["three: a", "three: b", "three: c"]
    assert len(np.unique(three[0].group)) == n
    # Drawing fewer takes as many of each label, in whole groups.
    (few,) = tasks("two", 40)
    assert int(few.label.sum()) == int((~few.label).sum()) == 20
    assert len(np.unique(few.group)) == 20


def test_long_texts_are_cut_and_counted(tmp_path: Path, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    lm = tiny_lm(byte_tokenizer)
    write(tmp_path, x__jsonl=rows(text=["fox " * 400, "dog"], label=[0, 1]))
    drawn = labelled_texts(only(tmp_path), lm, SequenceOptions(), most=100, seed=0)
    assert max(len(text) for text in drawn.texts) == 128
    assert drawn.facts["cut_to_tokens"] == {"tokens": 128, "texts": 1}


def test_the_page_has_every_column_and_every_kind_of_task() -> None:
    page = (Path(__file__).parents[2] / "docs" / "probing.md").read_text("utf-8")
    for name in [name for names in COLUMNS.values() for name in names]:
        assert f"`{name}`" in page
    for kind, names in (("token", TOKEN_KINDS), ("next", NEXT_KINDS)):
        (row,) = (line for line in page.splitlines() if line.startswith(f"| `{kind}: "))
        assert re.findall(r"`(?:\w+: )?([^`]+)`", row) == list(names)
