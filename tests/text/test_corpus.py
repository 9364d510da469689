"""Documents from every kind of place, in a fixed order, and what a person is told when one is bad."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saescope.errors import SaescopeError, TextError, UsageError
from saescope.text import Corpus, document_id


def texts(spec: object, **fields: str) -> list[str]:
    return [document.text for document in Corpus.open(str(spec), **fields)]


def refusal(spec: object, **fields: str) -> str:
    """What is said about a corpus that cannot be opened or read, in one line."""
    with pytest.raises(SaescopeError) as caught:
        texts(spec, **fields)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_a_text_file_is_one_document_kept_to_the_character(tmp_path: Path) -> None:
    text = "Zürich 😀\r\n\n  two  spaces\t日本 \n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    (document,) = Corpus.open(tmp_path / "a.txt")
    assert document.text == text
    assert document.id == document_id(text)
    assert document.source == "a.txt"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    assert texts(tmp_path / "a.txt") == ["hello"]


def test_a_folder_is_read_by_path_through_its_subfolders(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b" / "c.md").write_text("third")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / "d.py").write_text("ignored")
    (tmp_path / ".hidden" / "e.txt").write_text("ignored")
    write_lines(tmp_path / "aa.jsonl", {"text": "second"})
    assert texts(tmp_path) == ["first", "second", "third"]
    assert [document.source for document in Corpus.open(str(tmp_path))] == ["a.txt", "aa.jsonl:1", "b/c.md"]


def test_json_lines_and_parquet_give_the_same_documents(tmp_path: Path) -> None:
    rows = [{"text": "one", "title": "First"}, {"text": "two 😀", "title": None}]
    write_lines(tmp_path / "a.jsonl", *rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    for name in ("a.jsonl", "a.parquet"):
        documents = list(Corpus.open(str(tmp_path / name)))
        assert [(document.text, document.title) for document in documents] == [
            ("one", "First"),
            ("two 😀", f"{name}:2"),
        ]


def test_names_that_utf8_cannot_hold_are_written_out(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.jsonl")
    path.write_text('{"text": "one", "title": "half \\ud83d"}\n{"text": "two"}\n')
    first, second = Corpus.open(str(tmp_path))
    assert first.title == "half \\ud83d"
    assert second.source == "caf\\udce9.jsonl:2"
    assert (first.title + second.source).encode()


def test_lines_that_json_gives_up_on_are_named(tmp_path: Path) -> None:
    for line in ('{"text": "x", "n": ' + "1" * 5000 + "}", "[" * 100_000):
        (tmp_path / "a.jsonl").write_text(line)
        assert "a.jsonl:1 cannot be read as JSON" in refusal(tmp_path / "a.jsonl")
    assert "no such home directory" in refusal("~nobody-at-all/x.jsonl")


def test_another_field_can_hold_the_text(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", {"body": "one", "id": 3})
    assert texts(path, text_field="body") == ["one"]
    message = refusal(path, text_field="bodi")
    assert "a.jsonl:1" in message
    assert "nearest: body" in message


def test_conversations_keep_their_turns(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [{"type": "text", "text": "Hello"}]}]
    path = write_lines(tmp_path / "a.jsonl", {"messages": turns})
    pq.write_table(pa.Table.from_pylist([{"messages": [turns[0]]}]), tmp_path / "b.parquet")
    (document,) = Corpus.open(str(path))
    assert document.messages == ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})
    assert document.text == "user: Hi\n\nassistant: Hello"
    (from_parquet,) = Corpus.open(str(tmp_path / "b.parquet"))
    assert from_parquet.messages == ({"role": "user", "content": "Hi"},)


def test_empty_and_repeated_documents_are_left_out(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", *({"text": text} for text in ["a", "", " \n", "b", "a"]), {"text": None})
    assert texts(path) == ["a", "b"]


def test_a_corpus_can_be_read_again(tmp_path: Path) -> None:
    corpus = Corpus.open(str(write_lines(tmp_path / "a.jsonl", {"text": "a"}, {"text": "b"})))
    assert list(corpus) == list(corpus)


def test_identity_follows_content_and_not_place(tmp_path: Path) -> None:
    for folder in ("x", "y", "z"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text("same" if folder != "z" else "other")
    x, y, z = (Corpus.open(str(tmp_path / folder)).identity() for folder in ("x", "y", "z"))
    assert x == y != z
    assert json.loads(json.dumps(x)) == x


def test_what_does_not_exist_is_named_with_what_would_do(tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in refusal(tmp_path / "nowhere")
    assert "nearest: wikipedia-sample" in refusal("wikipedia-sampl")
    assert "model" in refusal("smollm2")
    (tmp_path / "a.pdf").write_bytes(b"%PDF")
    assert ".parquet" in refusal(tmp_path / "a.pdf")


def test_an_empty_corpus_is_refused(tmp_path: Path) -> None:
    assert "empty" in refusal(tmp_path)
    (tmp_path / "a.txt").write_text("  \n")
    assert "empty" in refusal(tmp_path)


def test_undecodable_bytes_are_named_with_file_and_offset(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("é".encode() * 10 + b"\xe9t\xe9")
    message = refusal(tmp_path / "a.txt")
    assert "a.txt" in message
    assert "0xe9 at offset 20" in message
    (tmp_path / "b.jsonl").write_bytes(b'{"text": "fine"}\n{"text": "\xff"}\n')
    assert "offset 27" in refusal(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"text": "broken', "not JSON"),
        ("[1, 2]", "not an object"),
        ('{"text": 3}', "int"),
        ('{"texts": "x"}', "nearest: texts"),
        ('{"messages": "x"}', "not a list"),
        ('{"messages": [{"role": "user"}]}', "role and a content"),
        ('{"text": "\\ud800"}', "surrogate"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number(tmp_path: Path, line: str, said: str) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n\n' + line + "\n")
    message = refusal(tmp_path)
    assert "a.jsonl:3" in message
    assert said in message


def test_a_bad_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    assert "a.parquet" in refusal(tmp_path)
    pq.write_table(pa.table({"txt": ["x"]}), tmp_path / "a.parquet")
    assert "nearest: txt" in refusal(tmp_path)


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("x")

    def refuse(_: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert "Permission denied" in refusal(tmp_path / "a.txt")


def test_without_the_datasets_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'saescope[datasets]'" in refusal("hf:some/dataset")


def test_a_dataset_is_streamed_with_its_config_and_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []

    def load_dataset(name: str, config: str | None, *, split: str, streaming: bool, revision: Any) -> Iterator[Any]:
        asked.append((name, config, split, streaming))
        if name.endswith("broken"):
            raise ValueError("no such split\ndetails")
        return iter([{"text": "a"}, {"text": "b"}])

    fake = types.ModuleType("datasets")
    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    # A local folder as the name: no revision is looked up, so no network is touched.
    monkeypatch.chdir(tmp_path)
    for name in ("data", "broken"):
        (tmp_path / name).mkdir()
    assert texts("hf:data") == texts("hf:data:en:test") == ["a", "b"]
    assert asked == [("data", None, "train", True), ("data", "en", "test", True)]
    assert Corpus.open("hf:data").identity() != Corpus.open("hf:data:en").identity()
    assert "no such split" in refusal("hf:broken")
    with pytest.raises(UsageError, match="hf:NAME:CONFIG:SPLIT"):
        Corpus.open("hf:a:b:c:d")


@pytest.mark.real
def test_the_demo_corpus_is_both_texts_in_order() -> None:
    titles = [document.title for document in Corpus.open("demo")]
    assert titles[:3] == ["Anarchism", "Autism", "Albedo"]
    assert titles[105:107] == ["Algorithm", "lee-news 1"]
    with pytest.raises(TextError):
        next(iter(Corpus.open("demo-text")))
