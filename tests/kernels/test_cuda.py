"""What the cuda kernels promise beyond the common contract. Without a GPU they run in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings

import pytest
import torch
from tests.kernels.conftest import DEVICE, needs_triton
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode

from saescope import kernels
from saescope.errors import UsageError
from saescope.kernels import (
    IMPLEMENTATIONS,
    AdamStep,
    Encoding,
    Room,
    Support,
    Trained,
    active,
    cuda,
    reference,
    sparse,
    using,
)

# Relative to the sizes of what is summed.
TOLERANCES = [(torch.float64, 1e-13), (torch.float32, 1e-6), (torch.bfloat16, 2**-8)]


def uneven_support(tokens: int, latents: int, generator: torch.Generator) -> Support:
    """One latent fires on every token and one on none; one token has every latent but that one, and one has none."""
    mask = torch.rand(tokens, latents, generator=generator) < 2 / latents
    mask[:, 1] = True
    mask[tokens // 2] = True
    mask[0] = False
    mask[:, latents - 1] = False
    rows, indices = (part.to(DEVICE) for part in mask.nonzero(as_tuple=True))
    return Support.from_rows(rows, indices, tokens, latents)


@needs_triton
@pytest.mark.parametrize(("dtype", "tolerance"), TOLERANCES)
@pytest.mark.parametrize(
    ("tokens", "latents", "width"),
    [(1700, 3, 5), (2, 1300, 16), (3, 5, 1030)],
    ids=["latent longer than three pieces", "token longer than two pieces", "wider than a block"],
)
def test_long_sums(tokens: int, latents: int, width: int, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    support = uneven_support(tokens, latents, generator)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(DEVICE, dtype)

    weight, rows, values = numbers(latents, width), numbers(tokens, width), numbers(support.nnz)
    # The interpreter takes milliseconds for every program of a grid: no products with many bags.
    calls = [("weight_gradient", (values, rows)), ("latent_sum", (values,))] if latents < 10 else []
    if tokens < 10:
        calls += [("decode", (values, weight)), ("sampled_product", (rows, weight))]
    for name, inputs in calls:
        mine = getattr(cuda, name)(support, *inputs)
        exact = getattr(reference, name)(support, *(part.double() for part in inputs))
        size = getattr(reference, name)(support, *(part.double().abs() for part in inputs))
        assert mine.dtype == dtype
        assert ((mine.double() - exact).abs() <= tolerance * size).all(), name
        assert torch.equal(mine, getattr(cuda, name)(support, *inputs)), "same inputs, same bits"


@needs_triton
def test_inputs_need_not_be_contiguous() -> None:
    generator = torch.Generator().manual_seed(1)
    support = uneven_support(6, 5, generator)
    weight = torch.randn(4, 5, generator=generator).to(DEVICE).T
    values, rows = torch.ones(1, device=DEVICE).expand(support.nnz), torch.randn(4, 1, device=DEVICE).T.expand(6, 4)
    torch.testing.assert_close(cuda.decode(support, values, weight), reference.decode(support, values, weight))
    for name, inputs in (("weight_gradient", (values, rows)), ("sampled_product", (rows, weight))):
        torch.testing.assert_close(getattr(cuda, name)(support, *inputs), getattr(reference, name)(support, *inputs))


def test_batch_topk_in_chunks_is_the_reference_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(2)
    x, weight = torch.randn(100, 16, generator=generator), torch.randn(50, 16, generator=generator)
    bias = torch.zeros(50)
    monkeypatch.setenv("SAESCOPE_CHUNK_MIB", str(50 * 4 * 7 / 2**20))
    for count in (1, 40, 349, 351, 1500):
        mine, dense = (k.select_batch_topk(Encoding(x, weight, bias), count) for k in (cuda, reference))
        assert torch.equal(mine.pointers, dense.pointers)
        assert torch.equal(mine.indices, dense.indices)
    mine, dense = (k.select_topk(Encoding(x, weight, bias), 3) for k in (cuda, reference))
    assert torch.equal(mine.pointers, dense.pointers)
    assert torch.equal(mine.indices, dense.indices)
    assert cuda.select_batch_topk(Encoding(x, weight, bias), 10**6).nnz == 5000


def test_where_nothing_is_positive_entries_stay_and_carry_zero() -> None:
    x, weight, bias = torch.randn(4, 3), torch.randn(7, 3), torch.full((7,), -1e3)
    assert cuda.select_batch_topk(Encoding(x, weight, bias), 9).nnz == 9
    support = cuda.select_topk(Encoding(x, weight, bias), 2)
    assert support.pointers.tolist() == [0, 2, 4, 6, 8]
    assert ((x @ weight.T + bias)[support.rows, support.indices].relu() == 0).all()


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Room that no batch is waited for any more."""
    monkeypatch.setattr(kernels.room, "_SWINGING", 0)
    return Room()


def tell(room: Room, near: int, chosen: int) -> None:
    room.tell(torch.tensor([near, chosen]), None)


@needs_triton
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("chunk", [60 * 4 * 7 / 2**20, 16])
def test_a_selection_with_room_has_the_same_entries_and_zeros(
    chunk: float, dtype: torch.dtype, room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As wide and sparse as a coder's: several times as many entries are near their threshold as are above it."""
    generator = torch.Generator().manual_seed(3)
    x, weight = (torch.randn(n, 900, generator=generator, dtype=dtype) for n in (23, 60))
    weight /= weight.norm(dim=1, keepdim=True)
    threshold = 2 + torch.rand(60, generator=generator, dtype=dtype)
    pre = Encoding(x.to(DEVICE), weight.to(DEVICE), torch.zeros(60, dtype=dtype, device=DEVICE))
    monkeypatch.setenv("SAESCOPE_CHUNK_MIB", str(chunk))
    exact, values = reference.select_threshold(pre, threshold.to(DEVICE))
    first, _ = cuda.select_threshold(pre, threshold.to(DEVICE), room=room)
    assert torch.equal(first.indices, exact.indices), "before the first count it is waited for"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        support, mine = cuda.select_threshold(pre, threshold.to(DEVICE), room=room)
        assert support.nnz == mine.numel() == room.places().chosen > exact.nnz
    kept = mine != 0
    at = exact.rows, exact.indices, values
    for one, other in zip((support.rows[kept], support.indices[kept], mine[kept]), at, strict=True):
        torch.testing.assert_close(one, other)
    assert support.pointers[-1] == support.nnz


@needs_triton
@pytest.mark.parametrize("short", ["near", "chosen"])
def test_what_has_no_room_is_left_out_once_and_said(short: str, room: Room) -> None:
    generator = torch.Generator().manual_seed(4)
    x, weight = torch.randn(60, 8, generator=generator), torch.randn(90, 8, generator=generator)
    pre = Encoding(x.to(DEVICE), weight.to(DEVICE), torch.zeros(90, device=DEVICE))
    nothing = torch.zeros(90, device=DEVICE)
    exact, values = reference.select_threshold(pre, nothing)
    tell(room, *((1, exact.nnz) if short == "near" else (exact.nnz, 1)))
    places = room.places()
    place = min(places.near, places.chosen)
    assert 1024 <= place < exact.nnz
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        support, mine = cuda.select_threshold(pre, nothing, room=room)
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        room.places()
    assert [f"place for {places.near:,} and {places.chosen:,}" in str(one.message) for one in said] == [True]
    # A few near their threshold turned out to be below it, and had their place all the same.
    kept = mine > 0
    n = int(kept.sum())
    assert 0.95 * place < n <= place
    for one, other in ((support.rows, exact.rows), (support.indices, exact.indices), (mine, values)):
        torch.testing.assert_close(one[kept], other[:n])
    support, mine = cuda.select_threshold(pre, nothing, room=room)
    assert (mine > 0).sum() == exact.nnz


def test_room_follows_the_counts_and_stays_where_it_fits(room: Room) -> None:
    assert room.places() is None
    tell(room, 300_000, 100_000)
    first = room.places()
    for count in (100_000, 119_000, 60_000, 100_000):
        assert first.chosen > 1.25 * count
        tell(room, 3 * count, count)
        assert room.places() == first
    tell(room, 310_000, 130_000)
    assert room.places().near == first.near
    assert room.places().chosen > 1.4 * 130_000
    tell(room, 310_000, 20_000)
    assert 1.25 * 20_000 < room.places().chosen < 40_000


def test_the_first_batches_are_waited_for() -> None:
    room = Room()
    for _ in range(64):
        assert room.places() is None
        tell(room, 30, 10)
    assert room.places() is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_selections_never_wait_for_the_device(dtype: torch.dtype) -> None:
    """On tensors without data, whatever would have to look at data fails."""
    with FakeTensorMode():
        x, weight, bias = torch.empty(7, 5), torch.empty(11, 5), torch.empty(11)
        for select in (cuda.select_topk, cuda.select_batch_topk):
            support = select(Encoding(x, weight, bias), 4, dtype=dtype)
            assert support.rows.shape == support.by_latent[0].shape == support.indices.shape
        with pytest.raises((DataDependentOutputException, DynamicOutputShapeException)):
            sparse.select_topk(Encoding(x, weight, bias), 4, dtype=dtype)


def test_forcing_them_where_they_cannot_run_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "lacking", lambda: "Triton (pip install triton)")
    with pytest.raises(UsageError, match="need Triton"), using("cuda"):
        pass
    monkeypatch.setenv("SAESCOPE_KERNELS", "cuda")
    with pytest.raises(UsageError, match="need Triton"):
        active(DEVICE)
    assert "cuda" in IMPLEMENTATIONS


@needs_triton
def test_row_update_refuses_what_it_would_misread() -> None:
    good, bad = torch.zeros(3, 2, device=DEVICE), torch.zeros(2, 3, device=DEVICE).T
    with pytest.raises(ValueError, match="contiguous"):
        cuda.tangent(good, bad, True)
    step = AdamStep(1e-3, 0.9, 0.999, 0.1, 0.1, 1e-8)
    with pytest.raises(ValueError, match="contiguous"):
        cuda.adam(Trained(good, good, bad, good), None, torch.ones((), device=DEVICE), step)
    with pytest.raises(ValueError, match="contiguous"):
        cuda.adam(Trained(good, good, good, good, bad, 0.5), None, torch.ones((), device=DEVICE), step)


_COMPILE = """
import re
import torch
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from saescope.kernels import cuda, row_update, triton_kernels as kernels

SCALARS = {name: "fp32" for name in ("rate", "keep_m", "take_m", "keep_v", "take_v", "root", "eps", "share")}
NAMES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.bfloat16: "*bf16"}

def ptx_of(kernel, tiling, types, other):
    tiling = dict(tiling)
    options = {name: tiling.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    types = {"members": "*i64", "offsets": "*i64", "n_bags": "i32", "slots": "i32", **types}
    names = kernel.arg_names
    signature = {name: "constexpr" if name in tiling else types.get(name, other) for name in names}
    known = {"n_columns", "n_latents"} | {name for name in names if signature[name][0] == "*"}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in known}
    source = ASTSource(kernel, signature, tiling, aligned)
    ptx = compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"]
    assert not re.search(r"\\b(atom|red)\\.", ptx), "sums must not depend on scheduling"
    return ptx

for width, dtype in ((2304, torch.float32), (2304, torch.bfloat16), (577, torch.float64), (1, torch.float32)):
    table = torch.empty(1, width, dtype=dtype)
    summed = NAMES[cuda._sum_dtype(table)]
    for kernel in (kernels.sum_rows, kernels.add_later_pieces, kernels.dot_rows):
        ptx = ptx_of(kernel, cuda._tiling(table), {"out": summed, "partial": summed}, NAMES[dtype])
        if width == 2304:
            assert "ld.global.v4" in ptx, "rows are read in 16-byte pieces"
    if dtype == torch.float32:
        for kernel in (kernels.row_square_norms, kernels.update_row):
            choices = {name: True for name in ("ON_SPHERE", "FOLLOWS") if name in kernel.arg_names}
            ptx_of(kernel, row_update._tiling(table) | choices, SCALARS, "*fp32")

PLACES = {"counts": "*i64", "starts": "*i64", "indices": "*i64", "n_latents": "i32", "place": "i32"}
for dtype in (torch.bfloat16, torch.float32):
    for kernel in (kernels.count_positive, kernels.place_positive):
        tiling = {"BLOCK": cuda._SCANNED, "num_warps": 4, "enable_fp_fusion": True}
        assert "ld.global.v" in ptx_of(kernel, tiling, PLACES, NAMES[dtype]), "numbers are read in pieces"

for bits, width, mask in (("*i16", 16, 2**15 - 1), ("*i32", 32, 2**31 - 1)):
    options = {"MASK": mask, "num_warps": 4, "enable_fp_fusion": True}
    sizes = {name: "i32" for name in ("n_columns", "n_groups", "n_searched", "k")}
    ptx = ptx_of(kernels.group_maxima, options | {"GROUP": 32, "GROUPS": 128}, sizes, bits)
    assert "ld.global.v4" in ptx, "numbers are read in 16-byte pieces"
    for group, out in ((1, "*i32"), (32, "*i64")):
        tiling = options | {"GROUP": group, "BLOCK": 2048, "N_BITS": width}
        ptx_of(kernels.search_row, tiling, sizes | {"groups": "*i32", "out": out}, bits)
"""


@needs_triton
def test_kernels_compile_for_an_h100(tmp_path: object) -> None:
    """The interpreter takes more than the compiler does. Compiling needs no GPU."""
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", _COMPILE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
