"""The cache holds what runs of the single texts give, whatever the batches, and runs no text twice."""

from __future__ import annotations

import errno
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from tests.measured import tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.activations import KeptRule
from saescope.errors import SaescopeError, TextError
from saescope.evaluation import ActivationCache
from saescope.evaluation.text_activations import TextActivations
from saescope.lm import LanguageModel

TEXTS = [[1, 5, 9, 30], [7], [40, 41, 42, 43, 44, 45, 46], [8, 8], [300, 12, 77]]
POINTS = ["resid_post.1", "mlp_out.0"]


@pytest.fixture
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


@pytest.mark.parametrize("batch_tokens", [1, 7, 1000])
def test_rows_are_those_of_runs_by_themselves(lm: LanguageModel, batch_tokens: int) -> None:
    found = ActivationCache(lm, batch_tokens=batch_tokens).of(TEXTS, POINTS)
    for number, text in enumerate(TEXTS):
        rows = slice(int(found.pointers[number]), int(found.pointers[number + 1]))
        assert found.tokens[rows].tolist() == text
        assert found.position[rows].tolist() == list(range(len(text)))
        assert set(found.text[rows].tolist()) == {number}
        alone = lm.run(torch.tensor([text]), capture=POINTS).activations
        for point in POINTS:
            torch.testing.assert_close(found.values[point][rows], alone[point][0], rtol=1e-5, atol=1e-5)


def test_kept_rows_are_the_rules(lm: LanguageModel) -> None:
    found = ActivationCache(lm).of(TEXTS, POINTS)
    norms = found.values["resid_post.1"].norm(dim=1)
    rule = KeptRule(frozenset({1, 8}), {"resid_post.1": float(norms.median())}, 1.0)
    expected = (norms <= norms.median()) & ~torch.isin(found.tokens, torch.tensor([1, 8]))
    assert torch.equal(found.kept(rule), expected)
    assert 0 < int(expected.sum()) < len(expected)


def test_a_kept_folder_saves_the_run_and_a_new_point_runs_alone(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ActivationCache(lm, tmp_path).of(TEXTS, POINTS[:1])
    captured: list[list[str]] = []
    run = LanguageModel.run

    def watched(self: LanguageModel, *args: object, **options: object) -> object:
        captured.append(list(options["capture"]))  # type: ignore[call-overload]
        return run(self, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(LanguageModel, "run", watched)
    again = ActivationCache(lm, tmp_path).of(TEXTS, POINTS[:1])
    assert not captured
    assert torch.equal(first.values[POINTS[0]], again.values[POINTS[0]])
    ActivationCache(lm, tmp_path).of(TEXTS, POINTS)
    assert captured == [POINTS[1:]]
    # Other texts are other files.
    ActivationCache(lm, tmp_path).of(TEXTS[:2], POINTS[:1])
    assert captured[1:] == [POINTS[:1]]


def test_an_interrupted_run_leaves_nothing_that_passes_for_whole(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = ActivationCache(lm, tmp_path, batch_tokens=4)

    def told(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.of(TEXTS, POINTS, told)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {".lock"}


def test_a_folder_shared_by_two_commands_holds_whole_files(
    lm: LanguageModel, byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """The second begins while the first writes, and waits: were both to write, one could name the other's half."""
    first, second = ActivationCache(lm, tmp_path, batch_tokens=4), ActivationCache(tiny_lm(byte_tokenizer), tmp_path)
    ran: list[int] = []
    with ThreadPoolExecutor(1) as threads:

        def told(done: int, total: int) -> None:
            if not waiting:
                waiting.append(threads.submit(second.of, TEXTS, POINTS, lambda done, total: ran.append(done)))
                time.sleep(0.3)

        waiting: list[Future[TextActivations]] = []
        found = first.of(TEXTS, POINTS, told)
        other = waiting[0].result(10)
    assert not ran
    for point in POINTS:
        assert torch.equal(found.values[point], other.values[point])


def test_a_full_disk_is_one_line(lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen before anything is mapped: later, the process would be ended by a signal."""

    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(SaescopeError, match=r"cannot keep activations in .*: No space left on device"):
        ActivationCache(lm, tmp_path).of(TEXTS, POINTS)
    assert not list(tmp_path.rglob("*.writing"))


def test_a_temporary_folder_goes_with_the_cache(lm: LanguageModel) -> None:
    cache = ActivationCache(lm)
    cache.of(TEXTS, POINTS)
    folder = cache.folder
    assert folder.exists()
    del cache
    assert not folder.exists()


def test_bad_input_is_one_line(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(TextError, match="text 1 has no tokens"):
        ActivationCache(lm).of([[1], []], POINTS)
    with pytest.raises(TextError):
        ActivationCache(lm).of([], POINTS)
    cache = ActivationCache(lm, tmp_path)
    cache.of(TEXTS, POINTS[:1])
    (file,) = tmp_path.rglob("*.bin")
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(SaescopeError, match="damaged"):
        cache.of(TEXTS, POINTS[:1])
    (tmp_path / "file").write_text("")
    impossible = ActivationCache(lm, tmp_path / "file" / "below")
    with pytest.raises(SaescopeError, match="cannot keep"):
        impossible.of(TEXTS, POINTS)
