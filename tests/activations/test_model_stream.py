"""Straight from the model: the same rows as a harvest, shuffled, bounded and resumable."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from saescope.activations import ActivationSource, ModelStream, Store, StoreStream, model_stream
from saescope.activations.model_stream import _Block
from saescope.errors import ModelError, StoreError, UsageError
from saescope.lm import LanguageModel
from saescope.text import Corpus, SequenceOptions

POINTS = ("resid_post.0", "mlp_out.1")
# Two blocks of 512 rows of two points of width 24, in bfloat16.
TWO_BLOCKS = 2 * 512 * 48 * 2
Open = Callable[..., ModelStream]


@pytest.fixture
def open_stream(lm: LanguageModel, corpus: Corpus, options: SequenceOptions) -> Open:
    def opened(model: LanguageModel = lm, **changes: Any) -> ModelStream:
        settings: dict[str, Any] = {"tokens": 3000, "batch_size": 64, "memory": TWO_BLOCKS, "batch_tokens": 128}
        return ModelStream(model, corpus, POINTS, options, **{**settings, **changes})

    return opened


def model_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "saescope-model"]


def test_it_gives_the_rows_of_a_harvest(open_stream: Open, store: Store) -> None:
    stream = open_stream(batch_size=1)
    from_store = StoreStream(store, batch_size=1)
    assert isinstance(stream, ActivationSource)
    assert stream.n_rows == stream.n_steps == from_store.n_steps

    def by_place(source: ModelStream | StoreStream) -> dict[tuple[int, int], tuple[int, int, torch.Tensor]]:
        return {
            (int(w.sequence), int(w.position)): (int(w.token), int(w.document), values[0])
            for values, w in source.with_labels()
        }

    mine, theirs = by_place(stream), by_place(from_store)
    assert mine.keys() == theirs.keys()
    for place, (token, document, values) in mine.items():
        assert (token, document) == theirs[place][:2]
        torch.testing.assert_close(values, theirs[place][2], rtol=0.02, atol=1e-3)


def test_a_value_beyond_float16_is_refused(fresh_lm: LanguageModel, open_stream: Open) -> None:
    with torch.no_grad():
        fresh_lm.hf_model.get_input_embeddings().weight.mul_(1e8)  # type: ignore[operator]
    stream = open_stream(fresh_lm, dtype="float16")
    with pytest.raises(StoreError, match=r"beyond float16; take bfloat16"):
        next(iter(stream))


def test_it_describes_its_data_as_a_store_does(open_stream: Open, store: Store) -> None:
    stream, from_store = open_stream(), StoreStream(store, batch_size=64)
    assert stream.kept_rule == from_store.kept_rule
    assert stream.trained_documents == from_store.trained_documents
    assert stream.documents == store.documents
    mine, theirs = stream.provenance(), from_store.provenance()
    for provenance in (mine, theirs):
        provenance.pop("source")
        provenance.pop("store", None)
    assert mine == theirs


def test_order_is_shuffled_within_blocks_and_depends_on_the_seed(open_stream: Open) -> None:
    def order(**given: Any) -> list[tuple[int, int]]:
        return [
            place
            for _, w in open_stream(**given).with_labels()
            for place in zip(w.sequence.tolist(), w.position.tolist(), strict=True)
        ]

    first = order()
    assert first == order() == order(prefetch=0)
    assert first != order(seed=1)
    assert first[:512] != sorted(first[:512])
    assert order(batch_size=50)[:1500] == first[:1500]
    two_passes = order(passes=2)
    assert two_passes[: len(first)] == first
    n = open_stream().n_rows
    assert two_passes[n : n + 200] != first[:200]
    assert len(set(two_passes[:n])) == n
    assert len(set(two_passes[n:])) == len(two_passes) - n > 0


def test_a_state_taken_anywhere_continues_bit_for_bit(open_stream: Open) -> None:
    whole = list(open_stream(passes=1.5))
    for stopped_after in (1, 7, 8, 30, len(whole) - 1):
        first = open_stream(passes=1.5)
        for number, _ in enumerate(first, start=1):
            if number == stopped_after:
                state = first.state_dict()
                break
        first.close()
        second = open_stream(passes=1.5)
        second.load_state_dict(state)
        rest = list(second)
        assert len(rest) == len(whole) - stopped_after
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[stopped_after:], strict=True))
    with pytest.raises(StoreError, match="different seed"):
        open_stream(seed=5).load_state_dict(state)


def test_what_interrupts_a_batch_before_it_is_counted_leaves_it_to_come(
    open_stream: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = list(open_stream())
    stream = open_stream()
    batches = iter(stream)
    for _ in range(7):
        next(batches)

    def interrupted(rows: torch.Tensor) -> torch.Tensor:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model_stream, "for_transfer", interrupted)
        with pytest.raises(KeyboardInterrupt):
            next(batches)
    again = open_stream()
    again.load_state_dict(stream.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(again, whole[7:], strict=True))


def test_resuming_runs_the_block_it_stopped_in_and_no_earlier_one(
    open_stream: Open, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = open_stream(prefetch=0)
    batches = iter(first)
    for _ in range(20):
        next(batches)
    second = open_stream(prefetch=0)
    second.load_state_dict(first.state_dict())
    runs = []
    run = lm.run
    monkeypatch.setattr(lm, "run", lambda tokens, **given: (runs.append(tokens.numel()), run(tokens, **given))[1])
    next(iter(second))
    assert sum(runs) <= 2 * 512


def test_rewinding_after_a_look_does_not_run_the_first_block_again(
    open_stream: Open, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = open_stream(prefetch=0)
    runs = []
    run = lm.run
    monkeypatch.setattr(lm, "run", lambda tokens, **given: (runs.append(tokens.numel()), run(tokens, **given))[1])
    start = stream.state_dict()
    stream.statistics()
    looked = next(iter(stream))
    stream.load_state_dict(start)
    assert torch.equal(next(iter(stream)), looked)
    assert sum(runs) == 512


def test_no_more_than_two_blocks_are_in_memory(open_stream: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0
    init = _Block.__init__

    def counted(self: _Block, *args: Any) -> None:
        nonlocal most
        init(self, *args)
        alive.add(self.rows)
        most = max(most, len(alive))

    monkeypatch.setattr(_Block, "__init__", counted)
    for _ in open_stream():
        time.sleep(0.005)
    assert most == 2


@pytest.mark.parametrize("counted_on", [0.995, 1.2], ids=["as usual", "more than there are"])
def test_sinks_shorten_a_pass_and_the_next_one_fills_up(
    counted_on: float, open_stream: Open, fresh_lm: LanguageModel, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    victim = int(torch.cat([s.token for s in store.shards()]).mode().values)
    with torch.no_grad():
        fresh_lm.hf_model.get_input_embeddings().weight[victim] *= 1000  # type: ignore[operator]
    monkeypatch.setattr(model_stream, "_SURE", counted_on)
    stream = open_stream(fresh_lm)
    places = [
        place for _, w in stream.with_labels() for place in zip(w.sequence.tolist(), w.position.tolist(), strict=True)
    ]
    assert len(places) == stream.n_steps * 64
    in_train = [s.token[s.in_split("train")] for s in store.shards()]
    n_sinks = sum(int((tokens == victim).sum()) for tokens in in_train)
    assert n_sinks > 64
    kept = sum(len(tokens) for tokens in in_train) - n_sinks
    if counted_on < 1:
        assert 0.8 * kept < len(places) == len(set(places)), "no row comes twice, and no pass begins for one batch"
    else:
        assert len(set(places)) == len(set(places[:kept])) == kept < len(places)


def test_a_text_too_long_to_keep_gives_the_same_rows(open_stream: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = list(open_stream())
    monkeypatch.setattr(model_stream, "_KEPT_BYTES", 1000)
    stream = open_stream()
    assert stream._kept_sequences is None
    again = list(stream)
    assert len(kept) == len(again)
    assert all(torch.equal(one, other) for one, other in zip(kept, again, strict=True))


def test_statistics_are_of_the_first_block(open_stream: Open, store: Store) -> None:
    whole = open_stream(memory=10**9).statistics()
    for point, of_store in store.statistics().items():
        assert whole[point].n_rows == of_store.n_rows
        torch.testing.assert_close(whole[point].mean, of_store.mean, rtol=1e-3, atol=1e-4)
        assert whole[point].mean_square == pytest.approx(of_store.mean_square, rel=1e-3)
    assert 0 < open_stream().statistics()["mlp_out.1"].n_rows <= 512


def test_held_out_rows_are_those_of_held_out_documents(open_stream: Open, store: Store) -> None:
    every = StoreStream(store, batch_size=64).held_out_rows(10**6)
    stream = open_stream()
    torch.testing.assert_close(stream.held_out_rows(10**6), every, rtol=0.02, atol=1e-3)
    some = stream.held_out_rows(50)
    assert some.shape == (50, 48)
    assert torch.equal(some, stream.held_out_rows(50))


def test_an_error_of_the_model_reaches_the_consumer(
    open_stream: Open, lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = open_stream()
    run, calls = lm.run, []

    def failing(tokens: torch.Tensor, **given: Any) -> Any:
        calls.append(1)
        if len(calls) > 6:
            raise ModelError("out of memory")
        return run(tokens, **given)

    monkeypatch.setattr(lm, "run", failing)
    with pytest.raises(ModelError, match="out of memory"):
        list(stream)
    assert not model_threads()


@pytest.mark.parametrize("how", ["close", "break", "interrupt"])
def test_the_thread_ends_with_its_consumer(how: str, open_stream: Open) -> None:
    stream = open_stream()
    try:
        for _ in stream:
            assert model_threads()
            if how == "close":
                stream.close()
            elif how == "break":
                break
            else:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass
    assert not model_threads()


def test_less_than_a_batch_is_refused(open_stream: Open) -> None:
    with pytest.raises(UsageError, match="less than one batch"):
        open_stream(batch_size=10**5)
