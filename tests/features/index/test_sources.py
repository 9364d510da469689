"""Sources are few whatever the corpus has of files."""

from __future__ import annotations

import pytest

from saescope.activations import StoredDocument
from saescope.features.index.sources import sources_of


def documents(*sources: str) -> list[StoredDocument]:
    return [
        StoredDocument(
            id=f"{n:032x}", title="", source=source, split="train", n_tokens=9, n_chars=9, harvested_tokens=9
        )
        for n, source in enumerate(sources)
    ]


@pytest.mark.parametrize(
    ("sources", "names", "last"),
    [
        ([], [""], None),
        (["b.jsonl:1", "a.jsonl:1", "b.jsonl:2"], ["b.jsonl", "a.jsonl"], 0),
        ([f"{n:02d}.txt" for n in range(64)], [f"{n:02d}.txt" for n in range(64)], 63),
        ([*(f"news/{n}.txt" for n in range(90)), "law/1.jsonl:7", "top.txt"], ["news/", "law/", "./"], 2),
        ([f"{n}.txt" for n in range(1000)], ["1,000 files"], 0),
        ([f"{n}/a.txt" for n in range(65)], ["65 files"], 0),
    ],
)
def test_many_files_count_by_folder_or_together(sources: list[str], names: list[str], last: int | None) -> None:
    found, number = sources_of(documents(*sources))
    assert found == names
    assert len(number) == len(sources)
    assert last is None or number[-1] == last
