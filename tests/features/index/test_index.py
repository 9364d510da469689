"""The index against a dense recount, whatever cuts its input, after interruptions, and when it is damaged."""

from __future__ import annotations

import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import filelock
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from tests.features.index.built import HOSTILE, OPTIONS, text_folder, tiny_coder, tiny_index, tiny_store
from tests.measured import POINT, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.activations import Store
from saescope.coders import Codes, Slice, SparseCoder, make_architecture
from saescope.coders.token_norm import TokenNorm
from saescope.errors import CoderError, FeatureIndexError, OccupiedError, UsageError
from saescope.features import FeatureIndex, StoreSource, TextSource, build_index
from saescope.features.index import coder_fingerprint
from saescope.features.index.assembly import transpose
from saescope.features.index.statistics import position_bins
from saescope.text import Corpus


@pytest.fixture(scope="module")
def store(bos_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Store:
    return tiny_store(tmp_path_factory.mktemp("tiny"), bos_tokenizer)


@pytest.fixture(scope="module")
def coder() -> SparseCoder:
    return tiny_coder()


@pytest.fixture(scope="module")
def index(store: Store, coder: SparseCoder, tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return build_index(coder, StoreSource(coder, store), tmp_path_factory.mktemp("index") / "index")


@pytest.fixture(scope="module")
def dense(index: FeatureIndex, store: Store, coder: SparseCoder) -> np.ndarray:
    """[positions, d_sae] codes, made from the store's rows alone; 0 at positions without a row."""
    codes = np.zeros((index.n_positions, coder.d_sae), np.float32)
    for shard in store.shards():
        found = coder.encode(shard.activations[POINT].float()).dense().detach().numpy()
        starts = index.arrays["sequence_offsets"][shard.sequence.numpy()]
        codes[starts + shard.position.numpy()] = found
    return codes


def arrays_of(index: FeatureIndex) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((index.path / "arrays").iterdir())}


def test_counts_and_moments_are_those_of_a_dense_recount(index: FeatureIndex, dense: np.ndarray, store: Store) -> None:
    assert index.n_tokens == store.n_rows
    assert index.nnz == int((dense > 0).sum()) > 500
    assert np.array_equal(index.count, (dense > 0).sum(0))
    np.testing.assert_allclose(index.maximum, dense.max(0), rtol=1e-6)
    np.testing.assert_allclose(index.arrays["total"], dense.sum(0, dtype=np.float64), rtol=1e-6)
    np.testing.assert_allclose(index.density, (dense > 0).sum(0) / store.n_rows)


def test_both_directions_hold_the_same_codes(index: FeatureIndex, dense: np.ndarray) -> None:
    by_feature, by_token = np.zeros_like(dense), np.zeros_like(dense)
    for feature in range(index.d_sae):
        positions, values = index.firings(feature)
        assert (np.diff(positions.astype(np.int64)) > 0).all()
        by_feature[positions, feature] = values
    for position in range(index.n_positions):
        features, values = index.at(position)
        assert (np.diff(values) <= 0).all()
        by_token[position, features] = values
    assert np.array_equal(by_feature, by_token)
    # A float16 share of the maximum has 11 bits; the smallest are subnormal.
    np.testing.assert_allclose(by_feature, dense, rtol=2**-10, atol=1e-6)
    assert np.array_equal(by_feature > 0, dense > 0)


def test_statistics_are_those_of_a_dense_recount(index: FeatureIndex, dense: np.ndarray) -> None:
    document = np.asarray(index.arrays["document"])
    sequence = np.asarray(index.arrays["sequence"])
    within = np.arange(index.n_positions) - index.arrays["sequence_offsets"][sequence]
    firsts, names = position_bins(int(within.max()) + 1)
    assert names == index.manifest.names["position_bins"]
    bins = np.searchsorted(firsts, within, side="right") - 1
    for feature in np.flatnonzero(index.count):
        fires = dense[:, feature] > 0
        assert int(index.arrays["histogram"][feature].sum()) == int(fires.sum())
        assert np.array_equal(index.arrays["position_profile"][feature], np.bincount(bins[fires], minlength=len(names)))
        own, times = np.unique(document[fires], return_counts=True)
        assert index.arrays["document_count"][feature] == len(own)
        best = sorted(zip(-times, own, strict=True))[:5]
        top = index.arrays["top_documents"][feature]
        assert top[top >= 0].tolist() == [number for _, number in best]
        assert int(index.arrays["source_counts"][feature].sum()) == int(fires.sum())
    edges = np.asarray(index.arrays["histogram_edges"])
    feature = int(index.count.argmax())
    shares = dense[:, feature][dense[:, feature] > 0] / index.maximum[feature]
    expected = np.histogram(np.clip(shares, edges[0], None), edges)[0]
    # float16 may move a value that stands on an edge.
    assert np.abs(index.arrays["histogram"][feature].astype(int) - expected).sum() <= 0.02 * len(shares) + 2


def test_partners_are_those_of_a_dense_recount(index: FeatureIndex, dense: np.ndarray) -> None:
    fires = (dense > 0).astype(np.float64)
    n = index.n_tokens
    together = fires.T @ fires
    count = fires.sum(0)
    spread = np.sqrt(np.outer(count * (n - count), count * (n - count)))
    with np.errstate(invalid="ignore", divide="ignore"):
        phi = np.where(together >= 3, (n * together - np.outer(count, count)) / spread, 0)
    np.fill_diagonal(phi, 0)
    for feature in np.flatnonzero(count):
        partners = index.arrays["coactive"][feature]
        partners = partners[partners >= 0]
        best = np.sort(phi[feature])[::-1][: len(partners)]
        np.testing.assert_allclose(index.arrays["coactive_phi"][feature][: len(partners)], best, rtol=1e-5)
        np.testing.assert_allclose(phi[feature][partners], best, rtol=1e-5)
        assert np.array_equal(
            index.arrays["coactive_count"][feature][: len(partners)], together[feature][partners].astype(int)
        )
        lift = n * together[feature][partners] / (count[feature] * count[partners])
        np.testing.assert_allclose(index.arrays["coactive_lift"][feature][: len(partners)], lift, rtol=1e-5)


def test_examples_are_the_strongest_and_spread_over_the_rest(index: FeatureIndex, dense: np.ndarray) -> None:
    tokens, sequence = np.asarray(index.arrays["tokens"]), np.asarray(index.arrays["sequence"])
    offsets = np.asarray(index.arrays["sequence_offsets"])

    def around(position: int) -> tuple[int, ...]:
        first, end = offsets[sequence[position]], offsets[sequence[position] + 1]
        return tuple(tokens[max(first, position - 6) : min(end, position + 4)].tolist())

    for feature in np.flatnonzero(index.count).tolist():
        groups = index.examples(feature)
        assert groups[0].name == "strongest"
        # The greedy choice: strongest first, none of a sequence or surrounding that is there already.
        expected: list[int] = []
        positions, values = index.firings(feature)
        for rank in np.lexsort((positions, -values))[: 64 * 16]:
            position = int(positions[rank])
            if len(expected) == 16:
                break
            if all(sequence[position] != sequence[other] and around(position) != around(other) for other in expected):
                expected.append(position)
        assert groups[0].positions == expected
        shown = [around(position) for group in groups for position in group.positions]
        assert len(set(shown)) == len(shown)
        by_position = dict(zip(positions.tolist(), values.tolist(), strict=True))
        for group in groups:
            for position in group.positions:
                assert group.low - 1e-6 <= by_position[position] <= group.high + 1e-6


def test_values_equal_a_fresh_forward(
    index: FeatureIndex, coder: SparseCoder, bos_tokenizer: PreTrainedTokenizerFast
) -> None:
    lm = tiny_lm(bos_tokenizer)
    feature = int(index.count.argmax())
    for group in index.examples(feature):
        for position in group.positions[:3]:
            sequence = int(index.arrays["sequence"][position])
            first, end = index.arrays["sequence_offsets"][sequence : sequence + 2]
            tokens = torch.from_numpy(np.array(index.arrays["tokens"][first:end])).long()[None]
            x = lm.run(tokens, capture=[POINT]).activations[POINT][0].bfloat16().float()
            fresh = coder.encode(x).dense()[int(position - first), feature]
            assert index.context(feature, position).value == pytest.approx(fresh.item(), rel=2**-9)


def test_a_token_shown_is_the_text_at_its_place(index: FeatureIndex) -> None:
    offsets = index.arrays["sequence_offsets"].tolist()
    whole = ""
    for first, end in itertools.pairwise(offsets):
        ids = index.arrays["tokens"][first:end].tolist()
        pieces = index.pieces(ids)
        assert len(pieces) == len(ids)
        assert "".join(pieces) == index.tokenizer.decode(ids, skip_special_tokens=False)
        document = index.arrays["document"][first:end]
        whole += "".join(piece for piece, own in zip(pieces, document, strict=True) if own >= 0)
        assert pieces[0] == "<bos>"
        assert document[0] == -1
    assert "日本語の文章 😀👩‍👩‍👧" in whole
    assert "<script>alert('x')</script>" in whole
    assert HOSTILE[:40] in whole


def test_contexts_stay_in_their_document(index: FeatureIndex) -> None:
    document, sequence = index.arrays["document"], index.arrays["sequence"]
    for position in range(0, index.n_positions, 7):
        if document[position] < 0:
            continue
        context = index.context(0, position, 100, 100)
        first, end = index.reach(position)
        assert end - first == len(context.tokens)
        assert set(document[first:end].tolist()) == {int(document[position])}
        assert set(sequence[first:end].tolist()) == {int(sequence[position])}
        assert first == 0 or document[first - 1] != document[position] or sequence[first - 1] != sequence[position]
        assert context.tokens[context.peak] == index.arrays["tokens"][position]
        short = index.context(0, position, 2, 1)
        assert short.tokens == context.tokens[max(0, context.peak - 2) : context.peak + 2]


def test_shards_parts_and_memory_change_nothing(
    index: FeatureIndex,
    coder: SparseCoder,
    bos_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = tiny_store(tmp_path, bos_tokenizer, shard_tokens=1024)
    monkeypatch.setattr("saescope.features.index.source._UNIT_POSITIONS", 300)
    monkeypatch.setattr("saescope.features.store_pass._ROWS", 64)
    again = build_index(coder, StoreSource(coder, other), tmp_path / "index")
    assert arrays_of(again) == arrays_of(index)
    # 200 entries at a time: dozens of ranges.
    transpose(again.path, 1200, lambda done, total: None)
    assert arrays_of(again) == arrays_of(index)


def test_text_run_through_the_model_gives_what_the_store_gives(
    index: FeatureIndex, coder: SparseCoder, bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    lm = tiny_lm(bos_tokenizer)
    corpus = Corpus.open(str(text_folder(tmp_path / "text")))
    source = TextSource(coder, lm, corpus, tokens=2400, options=OPTIONS)
    found = build_index(coder, source, tmp_path / "index")
    for name in ("tokens", "document", "sequence_offsets", "kept"):
        assert np.array_equal(found.arrays[name], index.arrays[name]), name
    # The store rounds activations to bfloat16, so some values near the threshold come or go.
    assert abs(found.nnz - index.nnz) < 0.02 * index.nnz
    assert [document.id for document in found.documents] == [document.id for document in index.documents]


def test_an_interrupted_build_goes_on_and_ends_the_same(
    index: FeatureIndex, coder: SparseCoder, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.features.index.source._UNIT_POSITIONS", 200)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "encode" and done > total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(coder, StoreSource(coder, store), tmp_path / "index", progress=stop)
    with pytest.raises(FeatureIndexError, match="incomplete; finish it"):
        FeatureIndex.open(tmp_path / "index")
    done = len(list((tmp_path / "index" / "parts").iterdir()))
    assert done > 1
    # A part cut short by a full disk or a lost power is made again.
    last = max((tmp_path / "index" / "parts").iterdir())
    last.write_bytes(last.read_bytes()[:-7])
    seen: list[int] = []
    again = build_index(
        coder,
        StoreSource(coder, store),
        tmp_path / "index",
        progress=lambda stage, n, total: seen.append(n) if stage == "encode" else None,
    )
    assert seen[1] > 100 * done
    assert arrays_of(again) == arrays_of(index)
    assert not (tmp_path / "index" / "parts").exists()
    assert not (tmp_path / "index" / "progress.json").exists()


def test_the_source_of_an_interrupted_build_can_be_given_again(
    coder: SparseCoder, bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("saescope.features.index.source._UNIT_POSITIONS", 200)
    # Batches, and so units, of two sequences.
    monkeypatch.setattr("saescope.features.index.source.BATCH_TOKENS", 64)
    corpus = Corpus.open(str(text_folder(tmp_path / "text")))

    def source() -> TextSource:
        return TextSource(coder, tiny_lm(bos_tokenizer), corpus, tokens=2400, options=OPTIONS)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "encode" and done > total // 2:
            raise KeyboardInterrupt

    begun = source()
    with pytest.raises(KeyboardInterrupt):
        build_index(coder, begun, tmp_path / "again", progress=stop)
    again = build_index(coder, begun, tmp_path / "again")
    at_once = build_index(coder, source(), tmp_path / "at once")
    assert arrays_of(again) == arrays_of(at_once)
    assert again.documents == at_once.documents


def test_a_document_that_is_in_no_table_is_refused(
    coder: SparseCoder, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = StoreSource(coder, store)
    monkeypatch.setattr(source, "documents", lambda: store.documents[:3])
    with pytest.raises(FeatureIndexError, match="its text has 3; remove"):
        build_index(coder, source, tmp_path / "index")


def test_a_killed_build_goes_on_and_ends_the_same(
    index: FeatureIndex, store: Store, bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    script = (
        "import sys, time\n"
        "from saescope.activations import Store\n"
        "from saescope.features import StoreSource, build_index\n"
        "import saescope.features.index.source as source\n"
        "from tests.features.index.built import tiny_coder\n"
        "source._UNIT_POSITIONS = 100\n"
        "coder = tiny_coder()\n"
        "def slow(stage, done, total):\n"
        "    print(stage, done, flush=True)\n"
        "    time.sleep(0.05)\n"
        "build_index(coder, StoreSource(coder, Store.open(sys.argv[1])), sys.argv[2], progress=slow)\n"
    )
    arguments = [sys.executable, "-c", script, store.path, str(tmp_path / "index")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(["src", "."])}
    process = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    try:
        for _ in range(4):
            assert process.stdout.readline().startswith("encode")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=30)
        process.stdout.close()
    assert (tmp_path / "index" / "parts" / "00001.safetensors").exists()
    subprocess.run(arguments, check=True, env=environment, timeout=120, stdout=subprocess.DEVNULL)
    assert arrays_of(FeatureIndex.open(tmp_path / "index")) == arrays_of(index)


def test_the_same_command_opens_what_is_finished_and_refuses_what_is_not_its_own(
    coder: SparseCoder, store: Store, index: FeatureIndex, tmp_path: Path
) -> None:
    before = (index.path / "manifest.json").read_bytes()
    again = build_index(coder, StoreSource(coder, store), index.path)
    assert again.nnz == index.nnz
    assert (index.path / "manifest.json").read_bytes() == before
    other = tiny_coder(seed=9)
    with pytest.raises(OccupiedError, match="another coder"):
        build_index(other, StoreSource(other, store), index.path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OccupiedError, match="holds something else"):
        build_index(coder, StoreSource(coder, store), tmp_path)
    with pytest.raises(FeatureIndexError, match="cannot make"):
        build_index(coder, StoreSource(coder, store), tmp_path / "notes.txt" / "index")
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_coders_that_differ_in_no_tensor_are_told_apart() -> None:
    def coder(architecture: str, kind: str | None = None, **options: int) -> SparseCoder:
        slices = [Slice(point=POINT, width=4)]
        norm = None if kind is None else TokenNorm(kind)
        return SparseCoder(make_architecture(architecture, 8, options), slices, slices, token_norm=norm)

    made = [
        coder("topk", k=2),
        coder("topk", k=3),
        coder("abstopk", k=2),
        coder("topk", "layer_norm", k=2),
        coder("topk", "rms_norm", k=2),
    ]
    assert len({coder_fingerprint(one) for one in made}) == len(made)
    assert coder_fingerprint(made[0]) == coder_fingerprint(coder("topk", k=2))


def test_a_finished_index_is_opened_where_nothing_can_be_written(
    coder: SparseCoder, store: Store, index: FeatureIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*arguments: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(filelock.FileLock, "_acquire", refused)
    assert build_index(coder, StoreSource(coder, store), index.path).manifest == index.manifest
    with pytest.raises(FeatureIndexError, match=r"cannot make .*Read-only"):
        build_index(coder, StoreSource(coder, store), index.path.parent / "new")


def test_a_build_killed_at_its_very_beginning_goes_on(coder: SparseCoder, store: Store, tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".manifest.json.writing").write_text('{"kind"')
    assert build_index(coder, StoreSource(coder, store), tmp_path).n_tokens


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 255
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    "name", ["arrays/feature_values.npy", "arrays/tokens.npy", "documents.parquet", "features.parquet"]
)
@pytest.mark.parametrize(("damage", "message"), [(_truncate, "damaged {}"), (Path.unlink, "{} is missing")])
def test_a_damaged_file_is_named(
    index: FeatureIndex, tmp_path: Path, name: str, damage: Callable[[Path], None], message: str
) -> None:
    copy = tmp_path / "index"
    shutil.copytree(index.path, copy)
    damage(copy / name)
    with pytest.raises(FeatureIndexError, match=message.format(name) + ".*; remove .* and build it again") as caught:
        FeatureIndex.open(copy)
    assert "\n" not in str(caught.value)


def test_a_changed_byte_is_found_by_its_hash(index: FeatureIndex, tmp_path: Path) -> None:
    index.verify()
    copy = tmp_path / "index"
    shutil.copytree(index.path, copy)
    _flip(copy / "arrays" / "coactive.npy")
    with pytest.raises(FeatureIndexError, match=r"damaged arrays/coactive.npy.*sha256"):
        FeatureIndex.open(copy).verify()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"kind": "saescope feature index", "schema": 1}'])
def test_a_damaged_manifest_is_refused(index: FeatureIndex, tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(FeatureIndexError, match=r"manifest.json"):
        FeatureIndex.open(tmp_path)


def test_a_later_schema_is_refused(index: FeatureIndex, tmp_path: Path) -> None:
    data = json.loads((index.path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(data | {"schema": 99}))
    with pytest.raises(FeatureIndexError, match="schema 99"):
        FeatureIndex.open(tmp_path)


def test_numbers_that_do_not_exist_are_refused(index: FeatureIndex) -> None:
    for feature in (-1, index.d_sae):
        with pytest.raises(UsageError, match=f"no feature {feature}"):
            index.firings(feature)
    with pytest.raises(UsageError, match="no position"):
        index.at(index.n_positions)


def test_a_coder_that_never_fires_is_refused(store: Store, tmp_path: Path) -> None:
    silent = tiny_coder()
    with torch.no_grad():
        silent.extra("threshold").fill_(1e9)
    with pytest.raises(FeatureIndexError, match="no feature fires"):
        build_index(silent, StoreSource(silent, store), tmp_path / "silent")


@pytest.mark.parametrize("value", [float("inf"), float("nan")])
def test_a_code_that_is_no_number_is_refused(
    coder: SparseCoder, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float
) -> None:
    encode = coder.encode

    def broken(x: torch.Tensor) -> Codes:
        codes = encode(x)
        return Codes(codes.support, codes.values * value)

    monkeypatch.setattr(coder, "encode", broken)
    with pytest.raises(FeatureIndexError, match="NaN or infinite"):
        build_index(coder, StoreSource(coder, store), tmp_path / "broken")


def test_a_store_of_other_points_is_refused(store: Store, tmp_path: Path) -> None:
    elsewhere = tiny_coder(reads="resid_post.0")
    with pytest.raises(CoderError, match="give the store it was trained on"):
        StoreSource(elsewhere, store)
    assert list(tmp_path.iterdir()) == []


def test_a_coder_of_another_model_is_refused(store: Store, tmp_path: Path) -> None:
    other = tiny_coder()
    other.metadata.model = {**store.manifest.request.model, "spec": "another", "weights": "2:" + "0" * 64}
    with pytest.raises(CoderError, match=r"trained on another, the store .* is of .*weights are others"):
        StoreSource(other, store)
    lm = tiny_lm(store.tokenizer())
    with pytest.raises(CoderError, match="trained on another, the model given"):
        TextSource(other, lm, Corpus.open(str(text_folder(tmp_path / "text"))), tokens=100)
    other.metadata.model = dict(lm.identity())
    TextSource(other, lm, Corpus.open(str(tmp_path / "text")), tokens=100)


def test_output_tokens_of_another_model_are_refused(
    store: Store, bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    lm, other = tiny_lm(bos_tokenizer), tiny_lm(bos_tokenizer, name="other", seed=5)
    silent = tiny_coder()
    with pytest.raises(FeatureIndexError, match=r"index is of .*, the model given is other, whose weights are others"):
        build_index(silent, StoreSource(silent, store), tmp_path / "index", lm=other)
    assert not (tmp_path / "index").exists()
    source = StoreSource(silent, store)
    silent.metadata.model = {**lm.identity(), "weights": "2:" + "0" * 64}
    with pytest.raises(CoderError, match="the model given is of tiny"):
        build_index(silent, source, tmp_path / "index", lm=lm)


def test_only_one_process_builds(coder: SparseCoder, store: Store, tmp_path: Path) -> None:
    import filelock

    def meanwhile(stage: str, done: int, total: int) -> None:
        with pytest.raises(OccupiedError, match="another process"):
            build_index(coder, StoreSource(coder, store), tmp_path / "index")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(coder, StoreSource(coder, store), tmp_path / "index", progress=meanwhile)
    assert filelock.FileLock(tmp_path / "index" / ".lock").acquire(timeout=1)


def test_position_bins_cover_every_place() -> None:
    for context in (1, 2, 3, 7, 256, 1000):
        firsts, names = position_bins(context)
        assert firsts[0] == 0
        assert firsts == sorted(set(firsts))
        assert len(names) == len(firsts)
        assert firsts[-1] < context
        assert names[-1].split("-")[-1] == str(context - 1)


def test_a_moved_coder_is_found_beside_its_index(bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    built = tiny_index(tmp_path / "here", bos_tokenizer)
    assert built.coder_path == (tmp_path / "here" / "coder").resolve()
    shutil.move(tmp_path / "here", tmp_path / "there")
    moved = FeatureIndex.open(tmp_path / "there" / "coder" / "index")
    assert moved.coder_path == (tmp_path / "there" / "coder").resolve()


def test_weights_forms_and_families_come_with_it(bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    lm = tiny_lm(bos_tokenizer)
    index = tiny_index(tmp_path, bos_tokenizer, lm=lm)
    assert index.manifest.skipped == {}
    coder = tiny_coder()
    logits = coder.W_dec.detach() * lm.output_lens.scale @ lm.output_lens.unembedding.float().T
    best = logits.topk(10, dim=1)
    np.testing.assert_allclose(index.arrays["lens_top_logits"], best.values.numpy(), rtol=1e-4)
    table = pq.read_table(index.path / "features.parquet").to_pydict()
    forms = np.array(index.manifest.names["forms"])
    assert table["form"] == forms[index.arrays["form"]].tolist()
    assert (np.array(table["form"]) == "silent").tolist() == (index.count == 0).tolist()
    assert table["top_outputs"][0].split("\n") == [
        index.pieces([token])[0].replace("\n", "↵") for token in index.arrays["lens_top"][0, :5].tolist()
    ]
    cosine = torch.nn.functional.normalize(coder.W_dec.detach(), dim=1)
    nearest = (cosine @ cosine.T - 2 * torch.eye(coder.d_sae)).argmax(1)
    assert index.arrays["nearest_decoder"][:, 0].tolist() == nearest.tolist()


def test_without_the_model_there_are_no_output_tokens_and_it_says_so(index: FeatureIndex) -> None:
    assert index.manifest.skipped == {"output tokens": "the coder's model was not at hand"}
    assert not index.has("lens_top")


def test_output_tokens_are_added_when_the_model_comes_later(
    coder: SparseCoder, store: Store, bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    without = build_index(coder, StoreSource(coder, store), tmp_path / "index")
    codes = (without.path / "arrays" / "feature_values.npy").stat().st_mtime_ns
    lm = tiny_lm(bos_tokenizer)
    added = build_index(coder, StoreSource(coder, store), tmp_path / "index", lm=lm)
    assert added.manifest.skipped == {}
    added.verify()
    assert (added.path / "arrays" / "feature_values.npy").stat().st_mtime_ns == codes
    at_once = build_index(coder, StoreSource(coder, store), tmp_path / "at once", lm=lm)
    assert arrays_of(added) == arrays_of(at_once)
    assert (added.path / "features.parquet").read_bytes() == (at_once.path / "features.parquet").read_bytes()


@pytest.mark.parametrize("after", ["weights", "forms", "tables"])
def test_adding_output_tokens_can_be_interrupted(
    coder: SparseCoder, store: Store, bos_tokenizer: PreTrainedTokenizerFast, tmp_path: Path, after: str
) -> None:
    build_index(coder, StoreSource(coder, store), tmp_path / "index")
    lm = tiny_lm(bos_tokenizer)

    def stop(stage: str, done: int, total: int) -> None:
        if stage == after and done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_index(coder, StoreSource(coder, store), tmp_path / "index", lm=lm, progress=stop)
    FeatureIndex.open(tmp_path / "index").verify()
    added = build_index(coder, StoreSource(coder, store), tmp_path / "index", lm=lm)
    added.verify()
    at_once = build_index(coder, StoreSource(coder, store), tmp_path / "at once", lm=lm)
    assert arrays_of(added) == arrays_of(at_once)
    assert added.manifest.files == at_once.manifest.files
