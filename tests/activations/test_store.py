"""A store that is not as it was written says so, and says where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load

from saescope.activations import Store, StoreStream
from saescope.activations.shards import encode
from saescope.errors import StoreError, UsageError


@pytest.fixture
def copy(store: Store, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(store.path, tmp_path / "copy"))


def shard(folder: Path, index: int) -> Path:
    return folder / "shards" / f"{index:05d}.safetensors"


def flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_an_untouched_store_verifies_and_reports_progress(store: Store) -> None:
    seen: list[tuple[int, int]] = []
    store.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] > 0


def test_a_flipped_byte_is_found_by_verify_and_by_the_stream(copy: Path) -> None:
    flip_last_byte(shard(copy, 3))
    store = Store.open(copy)
    with pytest.raises(StoreError, match=r"damaged shard shards/00003\.safetensors .*sha256"):
        store.verify()
    with pytest.raises(StoreError, match=r"damaged shard shards/00003\.safetensors"):
        for _ in StoreStream(store, batch_size=64):
            pass


def test_a_flipped_byte_elsewhere_is_found_by_verify(copy: Path) -> None:
    flip_last_byte(copy / "documents.parquet")
    with pytest.raises(StoreError, match=r"damaged documents\.parquet"):
        Store.open(copy).verify()


def test_a_flipped_byte_elsewhere_is_found_on_reading(copy: Path) -> None:
    """Wrong moments would be folded into every coder; wrong documents would let trained text into evaluation."""
    for name, read in (
        ("statistics.safetensors", lambda store: store.statistics()),
        ("documents.parquet", lambda store: store.documents),
    ):
        flip_last_byte(copy / name)
        with pytest.raises(StoreError, match=rf"damaged {name} in .*sha256"):
            read(Store.open(copy))


def test_a_truncated_shard_is_refused_on_opening(copy: Path) -> None:
    path = shard(copy, 2)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StoreError, match=r"damaged shard shards/00002\.safetensors .* bytes, the manifest says"):
        Store.open(copy)


def test_garbage_of_the_right_size_is_refused_on_reading(copy: Path) -> None:
    path = shard(copy, 2)
    path.write_bytes(b"\xff" * path.stat().st_size)
    with pytest.raises(StoreError, match=r"damaged shard shards/00002\.safetensors"):
        Store.open(copy).shard(2)


def test_swapped_shards_are_refused_on_reading(copy: Path) -> None:
    store = Store.open(copy)
    first, second = shard(copy, 0).read_bytes(), shard(copy, 1).read_bytes()
    shard(copy, 0).write_bytes(second)
    shard(copy, 1).write_bytes(first)
    with pytest.raises(StoreError, match=r"misplaced shard shards/00000\.safetensors .*is shard 1 of this store"):
        store.shard(0)
    with pytest.raises(StoreError, match="shards/00000"):
        Store.open(copy).verify()


def test_a_shard_of_another_store_is_refused_on_reading(copy: Path, make: Callable[..., Store], tmp_path: Path) -> None:
    make(tmp_path / "other", tokens=2900)
    store = Store.open(copy)
    shutil.copyfile(shard(tmp_path / "other", 1), shard(copy, 1))
    with pytest.raises(StoreError, match=r"foreign shard shards/00001\.safetensors"):
        store.shard(1)


def test_missing_incomplete_and_unreadable_stores_are_refused(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no activation store at"):
        Store.open(tmp_path / "nowhere")
    shard(copy, 4).unlink()
    with pytest.raises(StoreError, match=r"shard shards/00004\.safetensors is missing"):
        Store.open(copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    for broken, named in [
        ({**manifest, "complete": False}, "incomplete"),
        ({**manifest, "schema": 99}, "schema 99"),
        ({**manifest, "shards": "none"}, "unreadable"),
        ({**manifest, "unheard": 1}, "unreadable"),
        (
            {**manifest, "files": {"../x": manifest["files"]["documents.parquet"]}},
            "names '../x', which is not in the store",
        ),
        ([], "unreadable"),
    ]:
        (copy / "manifest.json").write_text(json.dumps(broken))
        with pytest.raises(StoreError, match=named) as refused:
            Store.open(copy)
        assert "\n" not in str(refused.value)
    (copy / "manifest.json").write_text("{")
    with pytest.raises(StoreError, match="unreadable"):
        Store.open(copy)


def test_text_can_be_shown_without_the_model(store: Store, text_file: Path) -> None:
    tokenizer = store.tokenizer()
    first = json.loads(text_file.read_text().splitlines()[0])["text"]
    by_document = [s for s in range(3) if tokenizer.decode(store.sequence(s), skip_special_tokens=True) in first]
    assert by_document, "the first document fills one of the first sequences of its split"
    with pytest.raises(UsageError, match="no sequence 100000"):
        store.sequence(100000)


def test_any_safetensors_reader_reads_a_shard(store: Store) -> None:
    tensors = load(shard(Path(store.path), 0).read_bytes())
    assert torch.equal(tensors["resid_post.0"], store.shard(0).activations["resid_post.0"])


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.tuples(
            st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.int32, torch.uint8]),
            st.lists(st.integers(0, 4), min_size=1, max_size=3),
            st.integers(0, 3),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_encoding_is_safetensors_whatever_the_tensors(described: dict[str, tuple[torch.dtype, list[int], int]]) -> None:
    tensors = {
        name: [torch.full((rows, width), i).to(dtype) for i, rows in enumerate(parts)]
        for name, (dtype, parts, width) in described.items()
    }
    data = b"".join(encode(tensors, {"b": "2", "a": "ü"}))
    assert data == b"".join(encode(dict(reversed(tensors.items())), {"a": "ü", "b": "2"}))
    found = load(data)
    assert found.keys() == tensors.keys()
    for name, parts in tensors.items():
        assert torch.equal(found[name], torch.cat(parts))
