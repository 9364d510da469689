"""What the weights say, against brute force over dense products; the map, on planted clusters."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.measured import D, coder_of, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.errors import UsageError
from saescope.features import weights
from saescope.features.weights import best, nearest
from saescope.features.weights.layout import fuzzy_graph
from saescope.lm import LanguageModel


@pytest.fixture(scope="module")
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


def directions(n: int, d: int = D, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def dense_logits(rows: torch.Tensor, lm: LanguageModel) -> torch.Tensor:
    norm, head = lm._engine.arch.final_norm, lm._engine.arch.lm_head
    return (rows * norm.weight.detach()) @ head.weight.detach()[: len(lm.tokenizer)].T


def test_lens_gives_the_tokens_of_all_logits(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best, "BLOCK_ELEMENTS", 7 * len(lm.tokenizer))
    rows = directions(50)
    coder = coder_of(rows, rows)
    lens = weights.logit_lens(coder, lm, k=5)
    assert lens is not None
    logits = dense_logits(rows, lm)
    top, bottom = logits.topk(5), logits.topk(5, largest=False)
    assert np.array_equal(lens.top, top.indices.numpy())
    assert np.array_equal(lens.bottom, bottom.indices.numpy())
    np.testing.assert_allclose(lens.top_logits, top.values.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lens.bottom_logits, bottom.values.numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(lens.mean, logits.mean(1).numpy(), atol=1e-4)
    np.testing.assert_allclose(lens.deviation, logits.std(1, correction=0).numpy(), rtol=1e-3)
    z = (logits.amax(1) - logits.mean(1)) / logits.std(1, correction=0)
    np.testing.assert_allclose(lens.peak, z.numpy(), rtol=2e-3)


def test_a_planted_direction_has_its_token_on_top(lm: LanguageModel) -> None:
    """The unembedding's own row, with the norm's scale taken out, has that token's logit as its largest."""
    head = lm._engine.arch.lm_head.weight.detach()
    scale = lm._engine.arch.final_norm.weight.detach()
    wanted = torch.tensor([7, 300, 42])
    unit = head / head.norm(dim=1, keepdim=True)
    rows = unit[wanted] / scale
    lens = weights.logit_lens(coder_of(rows, rows), lm, k=1)
    assert lens is not None
    alike = (head @ unit[wanted].T).argmax(0)
    assert lens.top[:, 0].tolist() == alike.tolist()


def test_a_silent_row_has_logits_of_zero(lm: LanguageModel) -> None:
    rows = directions(3)
    rows[1] = 0
    lens = weights.logit_lens(coder_of(rows, rows), lm)
    assert lens is not None
    assert not lens.top_logits[1].any()
    assert lens.peak[1] == 0
    assert lens.peak[0] > 1


def test_only_what_is_added_to_the_residual_stream_has_a_lens(lm: LanguageModel) -> None:
    rows = directions(4)
    for point in ("mlp_out.1", "attn_out.0", "resid_mid.1"):
        assert weights.logit_lens(coder_of(rows, rows, reads=point), lm) is not None
    inside = coder_of(rows, rows, reads="z.1")
    assert weights.logit_lens(inside, lm) is None
    assert weights.why_no_lens(inside, lm) == "z is not added to the residual stream"
    elsewhere = coder_of(rows, rows, reads="resid_post.9")
    assert "resid_post.9 is not a hook point" in str(weights.why_no_lens(elsewhere, lm))
    narrow = coder_of(rows[:, :5], rows[:, :5])
    assert "writes 5 numbers" in str(weights.why_no_lens(narrow, lm))
    with pytest.raises(UsageError, match="no logits"):
        weights.logit_histogram(inside, lm, [0])


def test_histogram_counts_every_token_once(lm: LanguageModel) -> None:
    rows = directions(6)
    found = weights.logit_histogram(coder_of(rows, rows), lm, [4, 1], n_bins=9)
    logits = dense_logits(rows[[4, 1]], lm).numpy()
    for (edges, counts), row in zip(found, logits, strict=True):
        assert counts.sum() == len(lm.tokenizer)
        assert edges[0] == pytest.approx(row.min(), rel=1e-4)
        assert edges[-1] == pytest.approx(row.max(), rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("smallest", [False, True])
def test_selection_finds_what_a_full_sort_finds(dtype: torch.dtype, smallest: bool) -> None:
    products = directions(40, 600, seed=3).to(dtype)
    # Rows with fewer numbers of the right sign than are asked for.
    products[3], products[4] = products[3].abs(), -products[4].abs()
    products[5] = 0
    places = best.largest_places(products, 8, smallest=smallest)
    expected = products.float().topk(8, largest=not smallest).values.sort(1).values
    torch.testing.assert_close(products.float().gather(1, places).sort(1).values, expected)
    assert all(len(set(row)) == 8 for row in places.tolist())


def test_float64_is_computed_where_there_is_any() -> None:
    assert best.float64_device(torch.device("mps", 0)) == torch.device("cpu")
    for device in (torch.device("cpu"), torch.device("cuda", 1)):
        assert best.float64_device(device) == device


def test_nearest_are_those_of_largest_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best, "BLOCK_ELEMENTS", 1000)
    rows, other = directions(120, seed=1) * torch.rand(120, 1).clamp(min=0.1), directions(120, seed=2)
    coder = coder_of(other, rows)
    for found, matrix in ((weights.nearest_decoder(coder, 6), rows), (weights.nearest_encoder(coder, 6), other)):
        unit = matrix / matrix.norm(dim=1, keepdim=True)
        cosine = (unit @ unit.T).fill_diagonal_(-2)
        expected = cosine.topk(6)
        assert np.array_equal(found.index, expected.indices.numpy())
        np.testing.assert_allclose(found.cosine, expected.values.numpy(), atol=1e-5)


def test_zero_rows_and_few_rows_have_empty_places() -> None:
    rows = torch.tensor([[1.0, 0, 0], [0, 0, 0], [2, 0.1, 0], [0, 1, 0]])
    found = weights.nearest_rows(rows, 5)
    assert found.index[0].tolist() == [2, 3, -1, -1, -1]
    assert found.index[1].tolist() == [-1] * 5
    assert found.cosine[0, 2:].tolist() == [0, 0, 0]
    assert found.cosine[0, 0] == pytest.approx(2 / 4.01**0.5)
    assert weights.nearest_rows(rows[:1], 2).index.tolist() == [[-1, -1]]


def test_too_many_latents_are_refused_by_their_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "MAX_LATENTS", 10)
    with pytest.raises(UsageError, match="11 latents are too many"):
        weights.nearest_rows(directions(11))


def test_neurons_are_the_largest_components_with_their_share() -> None:
    rows = directions(30)
    rows[2] = 0
    found = weights.neuron_alignment(coder_of(rows, rows), k=4)
    order = rows.abs().argsort(dim=1, descending=True, stable=True)[:, :4]
    assert np.array_equal(found.index, order.numpy())
    assert np.array_equal(found.weight, rows.gather(1, order).numpy())
    whole = weights.neuron_alignment(coder_of(rows, rows), k=1000)
    assert whole.index.shape == (30, D)
    sums = whole.share.sum(1)
    assert sums[2] == 0
    np.testing.assert_allclose(np.delete(sums, 2), 1, rtol=1e-5)
    np.testing.assert_allclose(weights.decoder_norms(coder_of(rows, rows)), rows.norm(dim=1).numpy(), rtol=1e-6)


def planted(n_clusters: int = 20, size: int = 15, noise: float = 0.35) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Rows around random centres, in an order that says nothing."""
    label = np.random.default_rng(0).permutation(np.repeat(np.arange(n_clusters), size))
    centres = directions(n_clusters, 40, seed=4)
    centres = centres / centres.norm(dim=1, keepdim=True)
    return centres[label] + noise * directions(label.size, 40, seed=5) / 40**0.5 * 2, label


def neighbours_of_own(place: NDArray[np.float32], label: NDArray[np.int64], k: int = 10) -> float:
    """Share of each point's k nearest on the map that are of its cluster."""
    distance = np.square(place[:, None] - place[None]).sum(2)
    np.fill_diagonal(distance, np.inf)
    return float((label[distance.argsort(1)[:, :k]] == label[:, None]).mean())


def test_clusters_come_out_together() -> None:
    rows, label = planted()
    near = weights.nearest_rows(rows)
    place = weights.layout(rows, near)
    assert place.shape == (label.size, 2)
    assert np.abs(place).max() == pytest.approx(1, abs=1e-6)
    by_chance = neighbours_of_own(np.random.default_rng(1).uniform(-1, 1, place.shape).astype(np.float32), label)
    assert by_chance < 0.15
    assert neighbours_of_own(place, label) > 0.95
    # The principal plane alone, which needs no neighbours, is far from that.
    assert neighbours_of_own(weights.layout(rows, None), label) < 0.8


def test_same_map_every_time_and_another_for_another_seed() -> None:
    rows, _ = planted(4, 12)
    near = weights.nearest_rows(rows)
    assert np.array_equal(weights.layout(rows, near), weights.layout(rows, near))
    assert not np.array_equal(weights.layout(rows, near), weights.layout(rows, near, seed=1))


def test_maps_of_next_to_nothing() -> None:
    for rows in (torch.zeros(5, 3), torch.ones(1, 3), directions(2, 1), directions(3, 2)):
        place = weights.layout(rows, weights.nearest_rows(rows))
        assert place.shape == (rows.shape[0], 2)
        assert np.isfinite(place).all()
        assert np.abs(place).max() <= 1


def test_graph_is_the_fuzzy_union_of_both_directions() -> None:
    rows = directions(40, 6, seed=7)
    near = weights.nearest_rows(rows, 5)
    heads, tails, found = fuzzy_graph(near)
    assert (heads < tails).all()
    pairs = {(min(i, int(j)), max(i, int(j))) for i in range(40) for j in near.index[i]}
    assert {(int(i), int(j)) for i, j in zip(heads, tails, strict=True)} == pairs
    # By the definition, one point at a time.
    one_way = np.zeros((40, 40))
    for i in range(40):
        distance = 1.0 - near.cosine[i].astype(float)
        low, high = 1e-9, 50.0
        for _ in range(200):
            scale = (low + high) / 2
            total = np.exp(-(distance - distance.min()) / scale).sum()
            low, high = (scale, high) if total < np.log2(5) else (low, scale)
        one_way[i, near.index[i]] = np.exp(-(distance - distance.min()) / high)
    both = one_way + one_way.T - one_way * one_way.T
    np.testing.assert_allclose(found, both[heads, tails], atol=1e-3)


@pytest.mark.real
def test_tokens_of_smollm2_are_those_of_a_full_float32_sort() -> None:
    """In the precision that this machine chooses candidates in, over the whole vocabulary."""
    lm = LanguageModel.load("smollm2")
    lens = lm.output_lens
    rows = directions(120, lm.d_model, seed=8)
    # What a token's row has of its own, among random directions, for which there is least between the tenth and the next.
    paris = int(lm.tokenizer(" Paris")["input_ids"][0])
    rows[0] = (lens.unembedding[paris].float() - lens.unembedding.float().mean(0)) / lens.scale
    found = weights.logit_lens(coder_of(rows, rows, reads="resid_post.14"), lm)
    assert found is not None
    logits = lens.before_unembedding(rows) @ lens.unembedding.float().T
    for largest, tokens, values in (
        (True, found.top, found.top_logits),
        (False, found.bottom, found.bottom_logits),
    ):
        expected = logits.topk(10, largest=largest)
        np.testing.assert_allclose(values, expected.values.numpy(), rtol=1e-4, atol=1e-4)
        # Tokens with nearly one row of the unembedding may change places.
        assert (tokens == expected.indices.numpy()).mean() > 0.99
    # The commonest tokens, whose rows are the longest, may lie before it.
    assert paris in found.top[0].tolist()
