"""Normalisation of each token by itself: what it is, that it is undone, and that files keep it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.coders.conftest import small_coder, some_x

from saescope.coders import Normalization, SparseCoder, TokenNorm, load, save
from saescope.errors import CoderError
from saescope.training.initialise import warm_start

KINDS = ("layer_norm", "constant_norm_rescale", "rms_norm")


def normed(kind: str, **shape: int) -> SparseCoder:
    coder = small_coder("jumprelu", dtype=torch.float32, **shape)
    coder.token_norm = TokenNorm(kind)
    return coder


def test_each_is_its_definition() -> None:
    x = some_x() + 1
    spread = ((x - x.mean(1, keepdim=True)).square().sum(1, keepdim=True) / 9).sqrt()
    torch.testing.assert_close(TokenNorm("layer_norm").apply(x), (x - x.mean(1, keepdim=True)) / (spread + 1e-5))
    lengths = TokenNorm("constant_norm_rescale").apply(x).norm(dim=1)
    torch.testing.assert_close(lengths, torch.full((30,), 10**0.5, dtype=torch.float64))
    squares = x.square().mean(1, keepdim=True)
    torch.testing.assert_close(TokenNorm("rms_norm").apply(x), x / (squares + 1e-6).sqrt())


@pytest.mark.parametrize("kind", KINDS)
def test_undoing_gives_the_token_back(kind: str) -> None:
    x, norm = some_x() * 50, TokenNorm(kind)
    torch.testing.assert_close(norm.undo(norm.apply(x), x), x, rtol=1e-5, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_codes_and_output_are_those_of_the_bare_coder_between(kind: str) -> None:
    coder, x = normed(kind), some_x(dtype=torch.float32) * 7
    bare, norm = small_coder("jumprelu", dtype=torch.float32), TokenNorm(kind)
    codes = coder.encode(x)
    assert torch.equal(codes.dense(), bare.encode(norm.apply(x)).dense())
    torch.testing.assert_close(coder.decode(codes, x), norm.undo(bare(norm.apply(x)), x))
    torch.testing.assert_close(coder(x), coder.decode(codes, x))
    with pytest.raises(
        CoderError, match=rf"undoes its {kind} on the output, which takes its input: call decode\(codes, x\)"
    ):
        coder.decode(codes)


def test_codes_do_not_depend_on_the_length_of_a_token() -> None:
    coder, x = normed("constant_norm_rescale"), some_x(dtype=torch.float32)
    torch.testing.assert_close(coder.encode(x * 8).dense(), coder.encode(x).dense())
    torch.testing.assert_close(coder(x * 8), coder(x) * 8)


def test_a_transcoder_is_not_undone() -> None:
    coder, x = normed("rms_norm", d_out=7), some_x(dtype=torch.float32)
    bare = small_coder("jumprelu", dtype=torch.float32, d_out=7)
    torch.testing.assert_close(coder(x), bare(TokenNorm("rms_norm").apply(x)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d_out", [None, 7])
def test_files_keep_it(kind: str, d_out: int | None, tmp_path: Path) -> None:
    coder, x = normed(kind, d_out=d_out), some_x(dtype=torch.float32)
    save(coder, tmp_path / "coder")
    again = load(tmp_path / "coder")
    assert again.token_norm == TokenNorm(kind)
    assert torch.equal(again(x), coder(x))


def test_training_does_not_start_from_it(tmp_path: Path) -> None:
    save(normed("layer_norm"), tmp_path / "coder")
    identity = Normalization.identity(10)
    with pytest.raises(CoderError, match="normalises each token by itself"):
        warm_start(small_coder("batchtopk"), str(tmp_path / "coder"), identity, identity)


def test_a_zero_token_stays_finite() -> None:
    for kind in KINDS:
        assert torch.isfinite(normed(kind)(torch.zeros(2, 10))).all()


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(CoderError, match=r"unknown normalisation of tokens 'layernorm'.*nearest: layer_norm"):
        TokenNorm("layernorm")
