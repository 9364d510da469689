"""Labels on disk."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow.parquet as pq
import pytest
from tests.features.labels.planted import PlantedIndex

from saescope.errors import FeatureIndexError
from saescope.features.labels import Label, LabelTable, label_of, read_labels, read_version, versions, write_labels
from saescope.features.labels.table import CONTRASTIVE, MODEL, new_version

HOSTILE = '<script>alert("x")</script> \u202eabc\x00 日本語 😀'


def table(kind: str, version: str, **texts: str) -> LabelTable:
    labels = tuple(Label(int(name[1:]), text, kind=kind, version=version) for name, text in texts.items())
    return LabelTable(labels, kind, version, {"seed": 3})


def test_labels_come_back_as_they_were(planted: PlantedIndex) -> None:
    label = Label(7, HOSTILE, 0.75, (0.5, 0.9), {"top_token": 0.6}, {"groups": [{"where": "next"}]}, MODEL, "a")
    bare = Label(9, "x", kind=MODEL, version="a")
    kept = LabelTable((label, bare), MODEL, "a", {"seed": 3, "drawn": [[1, 2]]})
    path = write_labels(planted, kept)
    assert read_version(planted, "a") == kept == read_labels(planted)
    assert pq.read_table(path).column("feature").to_pylist() == [7, 9]
    assert label_of(kept, 7) == label
    assert label_of(kept, 8) is None
    assert label_of(None, 7) is None
    assert [found.name for found in path.parent.iterdir()] == ["a.parquet"]


def test_newest_label_of_each_feature_wins(planted: PlantedIndex) -> None:
    assert read_labels(planted) is None
    first, second, third = (new_version(CONTRASTIVE, datetime(2026, 1, day, tzinfo=UTC)) for day in (9, 10, 11))
    write_labels(planted, table(CONTRASTIVE, second, f1="newer one", f2="two"))
    write_labels(planted, table(CONTRASTIVE, first, f1="one", f3="three"))
    write_labels(planted, table(MODEL, third, f2="asked two"))
    assert versions(planted) == [first, second, third]
    found = read_labels(planted)
    assert found is not None
    assert {n: (label.text, label.kind) for n, label in found.by_feature.items()} == {
        1: ("newer one", CONTRASTIVE),
        2: ("asked two", MODEL),
        3: ("three", CONTRASTIVE),
    }
    only = read_labels(planted, kinds=[CONTRASTIVE])
    assert only is not None
    assert only.by_feature[2].text == "two"
    assert read_labels(planted, kinds=["person"]) is None


def test_versions_sort_by_time() -> None:
    times = [datetime(2026, 1, 2, 3, 4, 5, n, UTC) for n in (0, 9, 10, 999_999)] + [datetime(2026, 10, 1, tzinfo=UTC)]
    names = [new_version(CONTRASTIVE, time) for time in times]
    assert names == sorted(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("damage", ["empty", "cut", "foreign", "future"])
def test_damaged_files_are_named(planted: PlantedIndex, damage: str) -> None:
    path = write_labels(planted, table(CONTRASTIVE, "a", f1="one"))
    if damage == "empty":
        path.write_bytes(b"")
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif damage == "foreign":
        pq.write_table(pq.read_table(path).replace_schema_metadata({}), path)
    else:
        found = pq.read_table(path)
        meta = {key: value.replace(b'"schema": 1', b'"schema": 2') for key, value in found.schema.metadata.items()}
        pq.write_table(found.replace_schema_metadata(meta), path)
    with pytest.raises(FeatureIndexError, match=r"a\.parquet") as caught:
        read_labels(planted)
    assert "\n" not in str(caught.value)
