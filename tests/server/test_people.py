"""What people write is never lost, is found, and survives whatever is written."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from saescope.errors import RevisionConflict, WorkspaceError
from saescope.server.people import FILE, Additions, People, PersonText, ReadOnly

HOSTILE = {
    "html": "<b onclick=x>bold</b>&amp;\"'",
    "script": "<script>alert(1)</script>",
    "nul": "before\0after",
    "right to left": "שלום ‮gpj.exe‬ مرحبا",
    "surrogate": "broken \ud800 half",
    "sql": "'); DROP TABLE texts; --",
    "search language": 'NEAR("a" b) OR -c* : ^d (',
    "long": "long " * 200_000,
    "emoji": "👩‍👩‍👧 🇫🇷",
}


@pytest.fixture
def people(tmp_path: Path) -> People:
    return People(tmp_path)


def test_a_text_is_revised_by_who_saw_it(people: People) -> None:
    assert people.text("label", "c", 3) == PersonText("", 0)
    assert people.write("label", "c", 3, " sea  and\nships ", 0) == PersonText("sea and ships", 1)
    assert people.write("label", "c", 3, "ships", 1) == PersonText("ships", 2)
    with pytest.raises(RevisionConflict, match=r"revision 2, you had 1.*kept in its history"):
        people.write("label", "c", 3, "boats", 1)
    assert people.text("label", "c", 3) == PersonText("ships", 2)
    assert [(one.text, one.revision, one.accepted) for one in people.history("label", "c", 3)] == [
        ("boats", 1, False),
        ("ships", 2, True),
        ("sea and ships", 1, True),
    ]
    # Others are others: a note, another feature, another coder.
    assert people.text("note", "c", 3) == people.text("label", "c", 4) == people.text("label", "d", 3) == PersonText()


def test_eight_threads_lose_none(tmp_path: Path) -> None:
    people = People(tmp_path)
    refused: list[str] = []
    each = 25

    def work(number: int) -> None:
        own = People(tmp_path) if number % 2 else people
        for turn in range(each):
            text = f"label {number} {turn}"
            try:
                own.write("label", "c", 1, text, own.text("label", "c", 1).revision)
            except RevisionConflict:
                refused.append(text)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    history = people.history("label", "c", 1)
    assert {one.text for one in history} == {f"label {number} {turn}" for number in range(8) for turn in range(each)}
    assert {one.text for one in history if not one.accepted} == set(refused)
    accepted = [one.revision for one in history if one.accepted]
    assert accepted == list(range(len(accepted), 0, -1))
    assert people.text("label", "c", 1) == PersonText(next(one.text for one in history if one.accepted), len(accepted))
    assert len(people.search("c", "label")) == 1


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_is_text(people: People, name: str) -> None:
    text = HOSTILE[name]
    for subject in ("label", "note"):
        people.write(subject, "c", 7, text, 0)  # type: ignore[arg-type]
        kept = people.text(subject, "c", 7).text  # type: ignore[arg-type]
        kept.encode("utf-8")
        assert "\0" not in kept
        # Nothing is taken away but what has no shape.
        assert len(kept) == len(text.strip())
    people.load_automatic("c", "1", [(1, text), (7, "other")])
    assert {feature for feature, _ in people.search("c", text)} == {1, 7}
    people.put_in_lists("c", 7, [text])
    assert people.lists_of("c", 7) == [people.text("label", "c", 7).text]


def test_words_of_labels_are_found(people: People) -> None:
    people.load_automatic(
        "c", "v1", [(0, "Einstein's physics"), (1, "the Apollo program"), (2, "日本語の文章"), (3, "naïve")]
    )
    people.load_automatic("d", "v1", [(9, "Einstein elsewhere")])

    def found(query: str) -> list[int]:
        return [feature for feature, _ in people.search("c", query)]

    assert found("einstein") == [0]
    assert found("phys") == [0]
    assert found("einstein apollo") == []
    assert found("apollo the") == [1]
    assert found("本語") == [2]
    assert found("naive") == [3]
    assert found("'") == [0]
    assert found("") == found("   ") == []
    assert all(relevance > 0 for _, relevance in people.search("c", "apollo"))


def test_a_persons_label_wins_and_gives_way_again(people: People) -> None:
    people.load_automatic("c", "v1", [(0, "ships"), (1, "rivers")])
    people.write("label", "c", 0, "lighthouses", 0)
    assert people.search("c", "ships") == []
    assert people.search("c", "lighthouses")[0][0] == 0
    assert people.load_automatic("c", "v2", [(0, "boats"), (1, "ships")])
    assert [feature for feature, _ in people.search("c", "ships")] == [1]
    assert people.search("c", "boats") == []
    assert not people.load_automatic("c", "v2", [])
    people.write("label", "c", 0, "", 1)
    assert people.search("c", "boats")[0][0] == 0
    assert people.additions("c").labels == {}


def test_stars_and_lists(people: People) -> None:
    people.star("c", 5, True)
    people.star("c", 5, True)
    people.star("c", 2, True)
    assert people.put_in_lists("c", 5, ["b", " a ", "b", ""]) == ["a", "b"]
    people.put_in_lists("d", 1, ["a"])
    assert people.lists() == [("a", 2), ("b", 1)]
    additions = people.additions("c")
    assert (additions.starred, additions.lists) == ([2, 5], {"a": [5], "b": [5]})
    people.star("c", 5, False)
    assert not people.is_starred("c", 5)
    assert people.put_in_lists("c", 5, []) == people.lists_of("c", 5) == []


def test_it_is_there_when_opened_again(tmp_path: Path) -> None:
    first = People(tmp_path)
    first.write("note", "c", 1, "two\nlines", 0)
    first.close()
    assert People(tmp_path).text("note", "c", 1) == PersonText("two\nlines", 1)


def test_what_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database at all, but long enough to be looked at" * 100)
    with pytest.raises(WorkspaceError, match=r"people\.sqlite3 is damaged") as caught:
        People(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(WorkspaceError, match="cannot be used"):
        People(tmp_path / "nowhere")


@pytest.fixture
def read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that cannot be written to, also not by who may write everywhere."""
    monkeypatch.setattr("saescope.server.people.os.access", lambda path, mode: not str(path).startswith(str(tmp_path)))
    return tmp_path


@pytest.mark.parametrize("left_open", [False, True])
def test_what_cannot_be_written_to_is_read(tmp_path: Path, left_open: bool, request: pytest.FixtureRequest) -> None:
    writer = People(tmp_path)
    writer.write("label", "c", 1, "ships", 0)
    writer.star("c", 2, True)
    if not left_open:
        writer.close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")}
    request.getfixturevalue("read_only")
    people = People(tmp_path)
    assert people.additions("c") == Additions({1: "ships"}, [2], {})
    people.load_automatic("c", "1", [(1, "rivers"), (3, "old ships")])
    assert [feature for feature, _ in people.search("c", "ships")] == [1, 3]
    for write in (
        lambda: people.write("note", "c", 1, "a", 0),
        lambda: people.star("c", 1, True),
        lambda: people.put_in_lists("c", 1, ["a"]),
    ):
        with pytest.raises(ReadOnly, match="cannot be written to") as caught:
            write()
        assert "\n" not in str(caught.value)
    people.close()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if not path.name.endswith("-shm")} == before


def test_a_read_only_folder_without_a_file_has_no_additions(read_only: Path) -> None:
    people = People(read_only)
    assert people.additions("c") == Additions({}, [], {})
    assert list(read_only.iterdir()) == []


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    people = People(tmp_path)
    people._connection().execute("PRAGMA user_version = 99")
    people.close()
    with pytest.raises(WorkspaceError, match="newer saescope"):
        People(tmp_path)


def test_connections_of_threads_that_ended_are_closed(people: People) -> None:
    for _ in range(20):
        thread = threading.Thread(target=people.lists)
        thread.start()
        thread.join()
    # This thread's, and the last one's.
    assert len(people._all) <= 2
