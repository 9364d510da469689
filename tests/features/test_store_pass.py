"""One pass over a real store of a tiny model, against a run of the model."""

from __future__ import annotations

import pytest
import torch
from tests.measured import POINT, documents, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.activations import Store, harvest
from saescope.coders import SparseCoder
from saescope.errors import CoderError
from saescope.features import top_contexts
from saescope.text import Corpus, SequenceOptions


@pytest.fixture(scope="module")
def store(byte_tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Store:
    folder = tmp_path_factory.mktemp("text")
    for number, document in enumerate(documents()):
        (folder / f"{number:02d}.txt").write_text(document.text)
    options = SequenceOptions(context=32, bos="always")
    out = folder / "store"
    corpus = Corpus.open(str(folder))
    return harvest(
        tiny_lm(byte_tokenizer), corpus, [POINT], out, tokens=2000, options=options, batch_tokens=256, shard_tokens=256
    )


@pytest.fixture
def coder() -> SparseCoder:
    return random_coder(threshold=1.5)


def test_store_pass_agrees_with_brute_force(store: Store, coder: SparseCoder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.n_shards > 1
    monkeypatch.setattr("saescope.features.store_pass._ROWS", 100)
    seen = []
    table = top_contexts(coder, store, 3, window=4, progress=lambda done, total: seen.append((done, total)))
    x = torch.cat([shard.activations[POINT] for shard in store.shards()]).float()
    where = [
        (int(sequence), int(position), int(document))
        for shard in store.shards()
        for sequence, position, document in zip(shard.sequence, shard.position, shard.document, strict=True)
    ]
    dense = coder.encode(x).dense().detach()
    assert seen[-1] == (x.shape[0], x.shape[0])
    assert torch.equal(table.count, (dense > 0).sum(0))
    assert int((table.count > 0).sum()) > 10
    for latent in range(coder.d_sae):
        best: dict[int, tuple[float, int]] = {}
        for row, value in enumerate(dense[:, latent].tolist()):
            sequence = where[row][0]
            if value > best.get(sequence, (0.0, -1))[0]:
                best[sequence] = (value, row)
        expected = sorted(best.values(), key=lambda peak: (-peak[0], peak[1]))[:3]
        found = table.contexts(latent)
        assert [(one.sequence, one.position, one.document) for one in found] == [where[row] for _, row in expected]
        for one in found:
            tokens = store.sequence(one.sequence).tolist()
            first = one.position - one.peak
            assert tokens[first : first + len(one.tokens)] == one.tokens
            assert 1 not in one.tokens


def test_windows_stay_within_a_document(store: Store, coder: SparseCoder) -> None:
    table = top_contexts(coder, store, 5)
    place = {
        (int(sequence), int(position)): int(document)
        for shard in store.shards()
        for sequence, position, document in zip(shard.sequence, shard.position, shard.document, strict=True)
    }
    for latent in range(coder.d_sae):
        for one in table.contexts(latent):
            first = one.position - one.peak
            owners = {place.get((one.sequence, first + offset), one.document) for offset in range(len(one.tokens))}
            assert owners == {one.document}


def test_a_store_of_other_points_is_refused_in_one_line(store: Store) -> None:
    with pytest.raises(CoderError, match=r"reads mlp_in\.1 of width 24, the store .* holds resid_post\.1 \(24\)"):
        top_contexts(random_coder(reads="mlp_in.1"), store)
