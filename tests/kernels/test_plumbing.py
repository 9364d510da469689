"""What the kernels stand on: threads, chunks, memory used again, the choice of an implementation."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from saescope.errors import UsageError
from saescope.kernels import IMPLEMENTATIONS, Encoding, active, recycling, reference, using
from saescope.kernels.chunks import chunk_bytes, token_chunks
from saescope.kernels.dispatch import timed
from saescope.kernels.threads import in_ranges

CPU = torch.device("cpu")


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("n", [0, 1, 2, 7, 100])
def test_ranges_cover_everything_once_and_in_order(threads: int, n: int) -> None:
    parts = in_ranges(lambda start, stop: list(range(start, stop)), n)
    assert [i for part in parts for i in part] == list(range(n))
    assert len(parts) <= threads


def test_balanced_ranges_own_about_the_same(threads: int) -> None:
    owned = torch.tensor([1000, 0, 0, 1, 1, 1, 997, 500, 500, 0])
    pointers = torch.cat([torch.zeros(1, dtype=torch.int64), owned.cumsum(0)])
    parts = in_ranges(lambda start, stop: (start, stop), 10, pointers=pointers)
    assert [start for start, _ in parts[1:]] == [stop for _, stop in parts[:-1]]
    assert (parts[0][0], parts[-1][1]) == (0, 10)
    shares = [int(owned[start:stop].sum()) for start, stop in parts]
    assert max(shares) <= 3000 / threads + 1000, "no more than one row beyond its share"


def test_an_error_in_any_range_is_raised_when_all_are_done(threads: int) -> None:
    done = []

    def work(start: int, stop: int) -> None:
        if stop == 10:
            raise ValueError("the last range")
        done.append(start)

    with pytest.raises(ValueError, match="the last range"):
        in_ranges(work, 10)
    assert len(done) == threads - 1


def test_chunks_keep_within_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAESCOPE_CHUNK_MIB", "1")
    chunks = token_chunks(10_000, 4096, torch.bfloat16, CPU)
    assert chunks.step * 4096 * 2 <= 2**20 < (chunks.step + 1) * 4096 * 2
    assert token_chunks(10, 2**24, torch.float32, CPU).step == 1, "a chunk is never less than a token"
    for wrong in ("none", "0", "-4"):
        monkeypatch.setenv("SAESCOPE_CHUNK_MIB", wrong)
        with pytest.raises(UsageError, match="positive number of MiB"):
            chunk_bytes(CPU)


@pytest.mark.parametrize(("gib", "mib"), [(4, 256), (24, 768), (80, 2048)])
def test_a_gpu_holds_a_share_of_its_memory_at_once(monkeypatch: pytest.MonkeyPatch, gib: int, mib: int) -> None:
    monkeypatch.setattr("saescope.kernels.chunks._memory", lambda device: gib * 2**30)
    assert chunk_bytes(torch.device("cuda")) == mib * 2**20
    assert chunk_bytes(torch.device("mps")) == 256 * 2**20


def test_spent_memory_is_used_again_and_let_go() -> None:
    recycling.clear()
    first = recycling.take(5, 3)
    recycling.give(first)
    assert recycling.take(5, 3) is first
    assert recycling.take(5, 3) is not first
    recycling.give(torch.zeros(5, 3).T)
    assert recycling.take(3, 5).is_contiguous()
    recycling.give(first)
    recycling.clear()
    assert recycling.take(5, 3) is not first


def test_kernels_follow_the_device_the_environment_and_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAESCOPE_KERNELS", raising=False)
    assert active(CPU).name == ("cpu" if "cpu" in IMPLEMENTATIONS else "sparse")
    assert active(torch.device("meta")).name == "sparse", "any other device runs torch's operators"
    monkeypatch.setenv("SAESCOPE_KERNELS", "sparse")
    assert active(CPU).name == "sparse"
    with using("reference"):
        assert active(CPU) is reference
    monkeypatch.setenv("SAESCOPE_KERNELS", "spars")
    with pytest.raises(UsageError, match=r"'spars' names no kernels; .*nearest: sparse"):
        active(CPU)


def test_timing_counts_what_runs_and_changes_nothing() -> None:
    x, weight, bias = torch.randn(9, 4), torch.randn(12, 4), torch.zeros(12)
    plain = active(CPU).select_topk(Encoding(x, weight, bias), 3)
    with timed(CPU) as seconds:
        kernels = active(CPU)
        assert torch.equal(kernels.select_topk(Encoding(x, weight, bias), 3).indices, plain.indices)
        assert isinstance(kernels.name, str)
    assert set(seconds) == {"select_topk"}
    assert seconds["select_topk"] > 0


def test_without_numba_torch_does_it_all() -> None:
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch; from saescope.kernels import IMPLEMENTATIONS, active\n"
        "assert 'cpu' not in IMPLEMENTATIONS\n"
        "print(active(torch.device('cpu')).name)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "sparse"
