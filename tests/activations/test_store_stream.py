"""Every pass visits every row once, in an order that only the seed decides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saescope.activations import ActivationSource, Store, StoreStream
from saescope.activations.store_stream import evenly_spaced
from saescope.errors import StoreError, UsageError

# Bytes of a row of two points of width 24, in bfloat16.
ROW = 48 * 2


def visits(stream: StoreStream) -> list[tuple[int, int]]:
    """(sequence, position) of every row handed out, in order."""
    return [
        place
        for _, labels in stream.with_labels()
        for place in zip(labels.sequence.tolist(), labels.position.tolist(), strict=True)
    ]


def rows_of(store: Store, split: str) -> list[tuple[int, int]]:
    found = []
    for shard in store.shards():
        mine = shard.in_split(split)
        found += list(zip(shard.sequence[mine].tolist(), shard.position[mine].tolist(), strict=True))
    return found


def test_it_is_an_activation_source(store: Store) -> None:
    assert isinstance(StoreStream(store, batch_size=64), ActivationSource)


@settings(max_examples=25, deadline=None)
@given(
    batch_size=st.integers(1, 200),
    window_rows=st.integers(1, 4000),
    seed=st.integers(0, 2**40),
    passes=st.sampled_from([1, 2, 3]),
    split=st.sampled_from(["train", "held_out"]),
)
def test_every_pass_visits_every_row_exactly_once(
    store: Store, batch_size: int, window_rows: int, seed: int, passes: int, split: str
) -> None:
    expected = sorted(rows_of(store, split))
    stream = StoreStream(
        store, batch_size=batch_size, memory=window_rows * ROW, seed=seed, passes=passes, split=split, prefetch=0
    )
    seen = visits(stream)
    assert len(seen) == stream.n_steps * batch_size == len(expected) * passes // batch_size * batch_size
    n = len(expected)
    for first in range(0, len(seen), n):
        one_pass = seen[first : first + n]
        if len(one_pass) == n:
            assert sorted(one_pass) == expected
        else:
            assert len(set(one_pass)) == len(one_pass)


def test_values_and_labels_belong_together(store: Store) -> None:
    by_place = {}
    for shard in store.shards():
        for row in range(shard.n_rows):
            by_place[int(shard.sequence[row]), int(shard.position[row])] = (shard, row)
    for values, labels in StoreStream(store, batch_size=100, memory=1000 * ROW).with_labels():
        for i in range(0, 100, 9):
            shard, row = by_place[int(labels.sequence[i]), int(labels.position[i])]
            assert torch.equal(values[i], torch.cat([shard.activations[point][row] for point in store.points]))
            assert (int(labels.token[i]), int(labels.document[i])) == (int(shard.token[row]), int(shard.document[row]))


def test_order_depends_on_seed_and_pass_only(store: Store) -> None:
    def order(**given: Any) -> list[tuple[int, int]]:
        return visits(StoreStream(store, **{"batch_size": 50, "memory": 1000 * ROW, "passes": 2} | given))

    assert order() == order() == order(prefetch=0) == order(prefetch=7)
    n = len(rows_of(store, "train"))
    assert order(batch_size=70)[:1000] == order()[:1000]
    assert order(seed=1) != order()
    assert order()[:n] != order()[n : 2 * n]
    assert order()[:200] != sorted(order()[:200])


def test_a_batch_is_a_function_of_its_step(store: Store) -> None:
    stream = StoreStream(store, batch_size=64, memory=500 * ROW, passes=2)
    batches = list(stream)
    assert len(batches) == stream.n_steps
    for step in (stream.n_steps - 1, 0, 17, 5, 30):
        assert torch.equal(stream.batch(step), batches[step])
    with pytest.raises(UsageError, match="outside"):
        stream.batch(stream.n_steps)


def test_a_state_taken_anywhere_continues_with_the_next_batch(store: Store) -> None:
    def stream() -> StoreStream:
        return StoreStream(store, batch_size=64, memory=500 * ROW, passes=1.5)

    whole = list(stream())
    for stopped_after in (1, 7, 20, len(whole) - 1):
        first = stream()
        for number, _ in enumerate(first, start=1):
            if number == stopped_after:
                state = first.state_dict()
                break
        first.close()
        second = stream()
        second.load_state_dict(state)
        rest = list(second)
        assert len(rest) == len(whole) - stopped_after
        assert all(torch.equal(a, b) for a, b in zip(rest, whole[stopped_after:], strict=True))
        assert second.step == second.n_steps
        # The same object goes on too, and can be set back.
        assert torch.equal(next(iter(first)), whole[stopped_after])
        first.load_state_dict({**state, "step": 0})
        assert torch.equal(next(iter(first)), whole[0])


def test_the_state_of_another_stream_is_refused(store: Store) -> None:
    state = StoreStream(store, batch_size=64).state_dict()
    for changes, says in (
        ({"batch_size": 32}, "batch_size"),
        ({"seed": 1}, "seed"),
        ({"memory": 5 * ROW}, "window_rows"),
        ({"points": ["mlp_out.1"]}, "points"),
    ):
        with pytest.raises(StoreError, match=f"another stream .different {says}"):
            StoreStream(store, **{"batch_size": 64} | changes).load_state_dict(state)  # type: ignore[arg-type]


def test_chosen_points_are_concatenated_in_the_order_asked_for(store: Store) -> None:
    both = StoreStream(store, batch_size=64)
    swapped = StoreStream(store, ["mlp_out.1", "resid_post.0"], batch_size=64)
    one = StoreStream(store, ["mlp_out.1"], batch_size=64)
    a, b, c = both.batch(3), swapped.batch(3), one.batch(3)
    assert torch.equal(torch.cat([a[:, 24:], a[:, :24]], 1), b)
    assert torch.equal(a[:, 24:], c)
    assert list(one.statistics()) == ["mlp_out.1"]
    with pytest.raises(UsageError, match=r"mlp_in\.1: the store .* has no mlp_in; nearest: mlp_out"):
        StoreStream(store, ["mlp_in.1"])


def test_held_out_rows_are_held_out_fixed_and_spread(store: Store) -> None:
    stream = StoreStream(store, batch_size=64)
    every = torch.cat([torch.cat(list(s.activations.values()), 1)[s.in_split("held_out")] for s in store.shards()])
    assert torch.equal(stream.held_out_rows(10**6), every)
    assert torch.equal(stream.held_out_rows(100), every[torch.from_numpy(evenly_spaced(len(every), 100))])
    assert stream.held_out_rows(0).shape == (0, 48)


@given(st.integers(0, 1000), st.integers(-3, 1000))
def test_evenly_spaced_numbers_are_different_and_in_range(total: int, at_most: int) -> None:
    numbers = evenly_spaced(total, at_most).tolist()
    assert len(numbers) == max(0, min(total, at_most)) == len(set(numbers))
    assert all(0 <= number < total for number in numbers)


def test_a_batch_may_be_asked_for_while_others_are_made_ahead(store: Store) -> None:
    """Both move through windows and passes, of which one each is held."""
    quiet = StoreStream(store, batch_size=64, passes=6, memory=2**14, prefetch=0)
    expected = [batch.clone() for batch in quiet]
    busy = StoreStream(store, batch_size=64, passes=6, memory=2**14, prefetch=4)
    for step, batch in enumerate(busy):
        assert torch.equal(batch, expected[step])
        other = (step * 7) % busy.n_steps
        assert torch.equal(busy.batch(other), expected[other])


def test_less_than_a_batch_is_refused(store: Store) -> None:
    with pytest.raises(UsageError, match="less than one batch of 5,000"):
        StoreStream(store, batch_size=5000)
    for wrong in ({"batch_size": 0}, {"passes": 0}, {"seed": -1}, {"points": []}, {"split": "test"}):
        with pytest.raises(UsageError):
            StoreStream(store, **wrong)  # type: ignore[arg-type]


def test_a_store_without_held_out_text_streams(make: Callable[..., Store], tmp_path: Path) -> None:
    from saescope.text import SequenceOptions

    store = make(tmp_path / "s", tokens=1000, options=SequenceOptions(context=32, held_out=0.0))
    assert StoreStream(store, batch_size=64).held_out_rows(10).shape == (0, 48)


def test_a_remote_store_gives_the_same_batches(make: Callable[..., Store], store: Store) -> None:
    remote = make("memory://stream/store")
    near, far = StoreStream(store, batch_size=64, seed=3), StoreStream(remote, batch_size=64, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(near, far, strict=True))
    assert near.provenance() == far.provenance()
