"""Every implementation of the hot operations against the dense definition, on ordinary and awkward shapes."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.kernels.conftest import DEVICE, needs_triton
from torch import Tensor

from saescope.kernels import (
    IMPLEMENTATIONS,
    AdamStep,
    Decoding,
    Encoding,
    Support,
    Trained,
    cuda,
    decode_from,
    per_latent,
    preactivations_on,
    reference,
    sparse,
    using,
)
from saescope.kernels.operations import Kernels
from saescope.kernels.room import Room
from saescope.kernels.rounding import with_room_for_rounding


def implementations(*names: str) -> list[object]:
    return [pytest.param(name, marks=needs_triton) if name == cuda.name else name for name in names]


OTHERS = implementations(*sorted(set(IMPLEMENTATIONS) - {"reference"}))


@dataclass(frozen=True)
class Problem:
    x: Tensor
    weight: Tensor
    bias: Tensor
    grad: Tensor
    support: Support
    values: Tensor

    def on(self, device: torch.device, dtype: torch.dtype = torch.float64) -> Problem:
        """The same problem elsewhere, its numbers rounded to `dtype`."""
        numbers = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "support"}
        s = self.support
        support = Support(s.pointers.to(device), s.indices.to(device), s.n_latents)
        return Problem(**{name: value.to(device, dtype) for name, value in numbers.items()}, support=support)


def for_kernels(name: str) -> torch.device:
    return DEVICE if name == cuda.name else torch.device("cpu")


def positive(support: Support, pre: Tensor) -> Support:
    """The entries with a positive pre-activation: `cuda` fills up with others where there are too few."""
    kept = (pre[support.rows, support.indices] > 0).nonzero().squeeze(1)
    return Support.from_rows(support.rows[kept], support.indices[kept], support.n_rows, support.n_latents)


@st.composite
def problems(draw: st.DrawFn, most_latents: int = 40) -> Problem:
    """Random batches, with the awkward ones among them: no token, one latent, silent latents, all pre-activations
    negative, duplicate rows, widths that are no multiple of anything."""
    tokens, width = draw(st.integers(0, 9)), draw(st.integers(1, 19))
    latents = draw(st.integers(1, most_latents))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight, bias, grad = normal(tokens, width), normal(latents, width), normal(latents), normal(tokens, width)
    kind = draw(st.sampled_from(["plain", "negative", "duplicates", "zero"]))
    if kind == "negative":
        bias = bias - 1e3
    if kind == "duplicates" and latents > 1:
        weight[1], bias[1] = weight[0], bias[0]
    if kind == "zero":
        x = torch.zeros_like(x)
    mask = torch.rand(tokens, latents, generator=generator) < draw(st.sampled_from([0.0, 0.1, 0.6, 1.0]))
    rows, indices = mask.nonzero(as_tuple=True)
    support = Support.from_rows(rows, indices, tokens, latents)
    return Problem(x, weight, bias, grad, support, normal(support.nnz))


@pytest.mark.parametrize("name", sorted(set(IMPLEMENTATIONS) - {"reference", "cuda"}))
@settings(max_examples=60, deadline=None)
@given(problem=problems())
def test_products_equal_the_dense_ones(name: str, problem: Problem) -> None:
    check_products(name, problem, problem)


@needs_triton
@settings(max_examples=20, deadline=None)
@given(problem=problems(most_latents=9), dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_products_on_cuda_equal_the_dense_ones(problem: Problem, dtype: torch.dtype) -> None:
    """Fewer and smaller, for Triton's interpreter takes milliseconds for every program of a grid."""
    p = problem.on(DEVICE, dtype)
    # Short pieces, so that small problems have long bags.
    with mock.patch.object(cuda, "PIECE", 4):
        check_products(cuda.name, p, p.on(torch.device("cpu")), max(1e-12, torch.finfo(dtype).eps))


def check_products(name: str, p: Problem, exact: Problem, tolerance: float = 1e-12) -> None:
    """All products of `p` are those of `exact`, within `tolerance` of the sizes of what is summed."""
    kernels = IMPLEMENTATIONS[name]
    for mine, dense, size in zip(products(kernels, p), products(reference, exact), sizes(exact), strict=True):
        assert mine.dtype == p.x.dtype
        assert mine.shape == dense.shape
        assert ((mine.to("cpu", torch.float64) - dense).abs() <= tolerance * (1 + size)).all()


def products(kernels: Kernels, p: Problem) -> list[Tensor]:
    return [
        kernels.decode(p.support, p.values, p.weight),
        kernels.sampled_product(p.support, p.grad, p.weight),
        kernels.weight_gradient(p.support, p.values, p.x),
        kernels.latent_sum(p.support, p.values),
    ]


def sizes(p: Problem) -> list[Tensor]:
    """The products of the absolute values."""
    numbers = {f.name: getattr(p, f.name).abs() for f in fields(p) if f.name != "support"}
    return products(reference, replace(p, **numbers))


@pytest.mark.parametrize("name", sorted(set(IMPLEMENTATIONS) - {"reference", "cuda"}))
@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_float32_products_equal_the_dense_ones(name: str, problem: Problem) -> None:
    """Float32 is what training runs in, and may take other code than float64."""
    p, kernels = problem, IMPLEMENTATIONS[name]
    x, weight, grad, values = p.x.float(), p.weight.float(), p.grad.float(), p.values.float()
    for mine, dense in (
        (kernels.decode(p.support, values, weight), reference.decode(p.support, p.values, p.weight)),
        (kernels.sampled_product(p.support, grad, weight), reference.sampled_product(p.support, p.grad, p.weight)),
        (kernels.weight_gradient(p.support, values, x), reference.weight_gradient(p.support, p.values, p.x)),
        (kernels.latent_sum(p.support, values), reference.latent_sum(p.support, p.values)),
    ):
        torch.testing.assert_close(mine.double(), dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rest_rows", [0, 1])
@pytest.mark.parametrize(("tokens", "levels"), [(0, 1), (1, 1), (9, 1), (9, 3), (140, 2)])
def test_reconstruction_equals_its_definition(
    name: str, dtype: torch.dtype, rest_rows: int, tokens: int, levels: int
) -> None:
    generator = torch.Generator().manual_seed(5)
    device, width, latents = for_kernels(name), 11, 17
    mask = torch.rand(tokens * levels, latents, generator=generator) < 0.4
    rows, indices = mask.nonzero(as_tuple=True)
    support = Support.from_rows(rows, indices, tokens * levels, latents)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    values, weight, y = normal(support.nnz), normal(latents, width), normal(tokens, width)
    rest = normal(tokens, width) if rest_rows else normal(width)
    dense = reference.reconstruct(Decoding(support, values, weight, rest, y, levels))
    there = Support.from_rows(rows.to(device), indices.to(device), tokens * levels, latents)
    mine = IMPLEMENTATIONS[name].reconstruct(
        Decoding(there, *(part.to(device, dtype) for part in (values, weight, rest, y)), levels)
    )
    tolerance = 1e-4 if dtype == torch.float32 else 1e-11
    for field in fields(dense):
        one, other = getattr(mine, field.name).cpu().double(), getattr(dense, field.name)
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance, msg=lambda m, f=field: f"{f.name}: {m}")


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("unit_rows", [True, False])
@pytest.mark.parametrize("follows", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (130, 7), (257, 64)])
def test_adam_on_the_sphere_equals_its_definition(
    name: str, dtype: torch.dtype, unit_rows: bool, follows: bool, shape: tuple[int, int]
) -> None:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(*shape, generator=generator, dtype=torch.float64)
    if unit_rows:
        weight /= weight.norm(dim=1, keepdim=True)
    device = for_kernels(name)
    mine = [weight.to(device, dtype), *torch.zeros(3, *shape, dtype=dtype, device=device)]
    dense = [weight.clone(), *torch.zeros(3, *shape, dtype=torch.float64)]
    start = weight.clone()
    for step in range(1, 4):
        grad = torch.randn(*shape, generator=generator, dtype=torch.float64)
        adam = AdamStep(1e-2, 0.9, 0.999, 1 - 0.9**step, 1 - 0.999**step, 1e-8)
        norms = []
        for kernels, (w, m, v, f) in ((IMPLEMENTATIONS[name], mine), (reference, dense)):
            g = grad.to(w.device, w.dtype, copy=True)
            along, square = kernels.tangent(w, g, unit_rows)
            norms.append(square.cpu().double())
            assert (along is None) == (not unit_rows)
            follower = {"follower": f, "share": 0.7} if follows else {}
            kernels.adam(
                Trained(w, g, m, v, **follower), along, torch.tensor(0.5, dtype=w.dtype, device=w.device), adam
            )
        tolerance = 1e-5 if dtype == torch.float32 else 1e-11
        torch.testing.assert_close(norms[0], norms[1], rtol=10 * tolerance, atol=10 * tolerance)
        if not unit_rows or shape[1] > 1:  # on a sphere of two points there is no direction to go
            for one, other in zip(mine, dense, strict=True):
                torch.testing.assert_close(one.cpu().double(), other, rtol=100 * tolerance, atol=10 * tolerance)
    if unit_rows:
        torch.testing.assert_close(mine[0].norm(dim=1).cpu(), torch.ones(shape[0], dtype=dtype))
    moved = 0.7 * (dense[0] - start) if follows else torch.zeros(shape, dtype=torch.float64)
    torch.testing.assert_close(dense[3], moved, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", OTHERS)
@settings(max_examples=60, deadline=None)
@given(problem=problems(), share=st.floats(0, 1), k=st.integers(1, 45), seed=st.integers(0, 99))
def test_exact_selection_is_the_reference_selection(
    name: str, problem: Problem, share: float, k: int, seed: int
) -> None:
    p, kernels = problem.on(for_kernels(name)), IMPLEMENTATIONS[name]
    encoding = Encoding(p.x, p.weight, p.bias)
    pre = p.x @ p.weight.T + p.bias
    threshold = torch.rand(p.weight.shape[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    threshold = threshold.to(p.x.device)
    count = round(share * pre.numel())
    chosen = {
        "batch": (
            kernels.select_batch_topk(encoding, count),
            reference.select_batch_topk(encoding, count),
        ),
        "token": (kernels.select_topk(encoding, k), reference.select_topk(encoding, k)),
        "threshold": (
            kernels.select_threshold(encoding, threshold)[0],
            reference.select_threshold(encoding, threshold)[0],
        ),
    }
    above, known = kernels.select_threshold(encoding, threshold)
    torch.testing.assert_close(known, pre[above.rows, above.indices], rtol=1e-12, atol=1e-12)
    if name == cuda.name:
        assert chosen["batch"][0].nnz == count
        assert chosen["token"][0].pointers.diff().eq(min(k, pre.shape[1])).all()
        chosen |= {kind: (positive(chosen[kind][0], pre), chosen[kind][1]) for kind in ("batch", "token")}
    for mine, dense in chosen.values():
        # Ties may go either way, so what must agree is the chosen values, not which of equal entries gave them.
        torch.testing.assert_close(
            pre[mine.rows, mine.indices].sort().values, pre[dense.rows, dense.indices].sort().values, rtol=0, atol=1e-12
        )
        assert (mine.pointers.diff() >= 0).all()
        for row in range(mine.n_rows):
            own = mine.indices[mine.pointers[row] : mine.pointers[row + 1]]
            assert (own.diff() > 0).all(), "latents ascend within a token, none twice"


@pytest.mark.parametrize("name", OTHERS)
def test_selection_in_bf16_differs_only_within_rounding_of_the_boundary(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(256, 64, generator=generator), torch.randn(512, 64, generator=generator)
    bias = torch.randn(512, generator=generator)
    count = 256 * 16
    exact = reference.select_batch_topk(Encoding(x, weight, bias), count)
    low = IMPLEMENTATIONS[name].select_batch_topk(Encoding(x, weight, bias), count, dtype=torch.bfloat16)
    assert low.nnz == exact.nnz == count
    pre = x @ weight.T + bias
    ones = torch.ones(count)
    differs = (reference.densify(low, ones) != reference.densify(exact, ones)).nonzero(as_tuple=True)
    boundary = float(pre[exact.rows, exact.indices].min())
    # bf16 keeps 8 bits: operands err by at most 2^-8 of their size each, and the result by 2^-8 of its own.
    slack = 2**-8 * (x.abs() @ weight.abs().T) + 2**-8 * pre.abs()
    assert (pre[differs] - boundary).abs().le(2 * slack[differs]).all()
    assert len(differs[0]) < 0.02 * count, "few entries lie that close"


@pytest.mark.parametrize("name", OTHERS)
def test_chunks_and_a_failed_probe_change_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = IMPLEMENTATIONS[name]
    generator = torch.Generator().manual_seed(1)
    # One token far stronger than the rest: evenly spaced probe tokens see it, and overestimate the floor.
    x = torch.randn(300, 16, generator=generator)
    x[0] *= 1000
    weight, bias = torch.randn(50, 16, generator=generator), torch.zeros(50)
    whole = kernels.select_batch_topk(Encoding(x, weight, bias), 4000)
    monkeypatch.setenv("SAESCOPE_CHUNK_MIB", str(50 * 4 * 7 / 2**20))
    pieces = kernels.select_batch_topk(Encoding(x, weight, bias), 4000)
    dense = reference.select_batch_topk(Encoding(x, weight, bias), 4000)
    for support in (whole, pieces):
        assert torch.equal(support.pointers, dense.pointers)
        assert torch.equal(support.indices, dense.indices)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 3e38])
def test_selection_ends_on_what_is_not_finite(name: str, value: float) -> None:
    """A run that diverges is to be told so, not to hang."""
    generator = torch.Generator().manual_seed(6)
    device = for_kernels(name)
    x, weight = torch.randn(40, 6, generator=generator).to(device), torch.rand(30, 6, generator=generator).to(device)
    x[::2] = value
    bias = torch.zeros(30, device=device)
    for select in (IMPLEMENTATIONS[name].select_batch_topk, IMPLEMENTATIONS[name].select_topk):
        for dtype in (torch.float32, torch.bfloat16):
            assert select(Encoding(x, weight, bias), 5, dtype=dtype).n_rows == 40
            assert select(Encoding(x, weight, bias), 1000, dtype=dtype).n_rows == 40
    assert IMPLEMENTATIONS[name].select_threshold(Encoding(x, weight, bias), bias)[0].n_rows == 40


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("n_latents", "k"), [(1000, 1), (1000, 7), (997, 60), (64, 8), (130, 130)])
def test_each_token_gets_its_largest(name: str, dtype: torch.dtype, n_latents: int, k: int) -> None:
    """Small integers: every product is exact in both precisions, and ties abound."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randint(-3, 4, (70, 24), generator=generator).float()
    weight = torch.randint(-3, 4, (n_latents, 24), generator=generator).float()
    bias = torch.randint(-9, 3, (n_latents,), generator=generator).float()
    pre = x @ weight.T + bias
    mine = positive(IMPLEMENTATIONS[name].select_topk(Encoding(x, weight, bias), k, dtype=dtype), pre)
    dense = reference.select_topk(Encoding(x, weight, bias), k)
    assert torch.equal(mine.pointers, dense.pointers)
    for row in range(70):
        own, theirs = (pre[row, s.indices[s.pointers[row] : s.pointers[row + 1]]] for s in (mine, dense))
        assert torch.equal(own.sort().values, theirs.sort().values)


@pytest.mark.parametrize("name", implementations(*IMPLEMENTATIONS))
def test_gradients_of_encode_and_decode(name: str) -> None:
    generator = torch.Generator().manual_seed(2)
    device = for_kernels(name)

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device).requires_grad_()

    x, shift, weight, bias, decoder, gain = leaf(5, 7), leaf(7), leaf(11, 7), leaf(11), leaf(11, 6), leaf(11)
    mask = (torch.rand(5, 11, generator=generator) < 0.4).to(device)
    rows, indices = mask.nonzero(as_tuple=True)
    support = Support.from_rows(rows, indices, 5, 11)

    def function(*inputs: Tensor) -> Tensor:
        x, shift, weight, bias, decoder, gain = inputs
        values = preactivations_on(support, x, weight, bias, shift) * per_latent(support, gain)
        return decode_from(support, values, decoder)

    with using(name):
        # The fast mode takes a few random directions instead of all; the interpreter takes minutes for all.
        fast = name == cuda.name
        assert torch.autograd.gradcheck(function, (x, shift, weight, bias, decoder, gain), fast_mode=fast)


def test_regrouped_support_shares_entries_and_latent_order() -> None:
    support = Support.from_rows(torch.tensor([0, 0, 2]), torch.tensor([1, 4, 0]), 3, 5)
    finer = support.regroup(torch.tensor([0, 1, 2, 2, 2, 3, 3]))
    assert finer.rows.tolist() == [0, 1, 4]
    assert finer.by_latent[0] is support.by_latent[0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    width=st.integers(1, 80),
    size=st.sampled_from([1e-3, 1.0, 300.0]),
    offset=st.floats(0, 4),
)
def test_rough_search_loses_no_latent_above_its_threshold(seed: int, width: int, size: float, offset: float) -> None:
    """Float32 codes are exact although the dense product that finds them is rounded to bfloat16."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(64, width, generator=generator) * size
    weight = torch.randn(96, width, generator=generator)
    bias = torch.randn(96, generator=generator) * size
    threshold = torch.full((96,), offset * size * width**0.5)
    left, right = with_room_for_rounding(Encoding(x, weight, bias), threshold, torch.bfloat16)
    truly = x.double() @ weight.double().T + bias.double() - threshold.double() > 0
    roughly = left @ right.T > 0
    assert not (truly & ~roughly).any()
    # ... and lets little else through: only what lies within the room for rounding.
    room = 2**-6 * 1.2 * x.norm(dim=1, keepdim=True) * weight.norm(dim=1) + 1e-4 * (bias - threshold).abs()
    assert not (roughly & (x @ weight.T + bias - threshold < -room)).any()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("unit_rows", [True, False])
def test_a_gradient_that_is_no_number_shows_in_its_norm(name: str, value: float, unit_rows: bool) -> None:
    """By the norm a run is stopped before its weights are lost."""
    device = for_kernels(name)
    weight = torch.nn.functional.normalize(torch.randn(130, 24), dim=1)
    grad = torch.randn(130, 24)
    grad[77, 3] = value
    _, square = IMPLEMENTATIONS[name].tangent(weight.to(device), grad.to(device), unit_rows)
    assert not square.isfinite()


def test_taking_as_many_entries_as_there_are_is_no_want_of_room(recwarn: pytest.WarningsRecorder) -> None:
    """The torch operators cut nothing off, however L0 jumps."""
    room, x, weight = Room(), torch.randn(8, 16), torch.randn(900, 16)
    for step in range(70):
        bias = torch.full((900,), -6.0 if step < 66 else 0.0)
        support, _ = sparse.select_threshold(Encoding(x, weight, bias), torch.zeros(900), room=room)
    assert support.nnz > 1024
    assert not [one for one in recwarn.list if "left out" in str(one.message)]
