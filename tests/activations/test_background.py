"""Work ahead of and behind the main thread."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from saescope.activations.background import Behind, ahead


def saescope_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("test-")]


@pytest.mark.parametrize("depth", [0, 1, 2, 5])
def test_ahead_yields_the_same_in_the_same_order(depth: int) -> None:
    assert list(ahead(lambda stopped: iter(range(20)), depth, "test-order")) == list(range(20))
    assert not saescope_threads()


@pytest.mark.parametrize("depth", [1, 2])
def test_ahead_makes_no_more_than_it_was_allowed(depth: int) -> None:
    made: list[int] = []

    def make(stopped: threading.Event) -> Iterator[int]:
        for item in range(10):
            made.append(item)
            yield item

    items = ahead(make, depth, "test-depth")
    assert next(items) == 0
    deadline = time.monotonic() + 30
    while len(made) < 1 + depth and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)  # In which a thread that ignores its allowance would make another.
    assert made == list(range(1 + depth))
    items.close()


def test_an_error_arrives_in_its_place_and_the_thread_ends() -> None:
    def make(stopped: threading.Event) -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    items = ahead(make, 2, "test-error")
    assert next(items) == 1
    with pytest.raises(ValueError, match="broken"):
        next(items)
    assert not saescope_threads()


def test_closing_stops_a_slow_maker_between_its_steps() -> None:
    def make(stopped: threading.Event) -> Iterator[int]:
        yield 0
        while not stopped.wait(0.01):
            pass

    items = ahead(make, 1, "test-close")
    next(items)
    items.close()
    assert not saescope_threads()


def test_behind_handles_in_order_and_waits_at_the_end() -> None:
    handled: list[int] = []

    def handle(item: int) -> None:
        time.sleep(0.01)
        handled.append(item)

    with Behind(handle, 2, "test-behind") as behind:
        for item in range(8):
            behind.submit(item)
    assert handled == list(range(8))
    assert not saescope_threads()


def test_behind_raises_what_failed_and_never_hangs() -> None:
    def handle(item: int) -> None:
        if item == 1:
            raise OSError("no")

    def submit_many() -> None:
        with Behind(handle, 1, "test-fail") as behind:
            for item in range(100):
                behind.submit(item)

    with pytest.raises(OSError, match="no"):
        submit_many()
    assert not saescope_threads()


def test_leaving_with_an_error_drops_what_is_pending() -> None:
    handled: list[int] = []
    begun, gate = threading.Event(), threading.Event()

    def handle(item: int) -> None:
        begun.set()
        gate.wait(30)
        handled.append(item)

    def submit_and_be_interrupted() -> None:
        with Behind(handle, 5, "test-drop") as behind:
            for item in range(5):
                behind.submit(item)
            assert begun.wait(30)  # Or the first would be dropped with the rest.
            threading.Timer(0.1, gate.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        submit_and_be_interrupted()
    assert handled == [0]
