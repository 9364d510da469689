"""Work done one step ahead of its consumer, in a thread that never outlives it."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1


class _Failed:
    def __init__(self, error: BaseException):
        self.error = error


_END = object()


def ahead(make: Callable[[threading.Event], Iterator[T]], depth: int, name: str) -> Generator[T, None, None]:
    """Yields what `make(stopped)` yields, produced by a thread that stays at most `depth` items ahead.

    The item being produced counts: with `depth` 1 at most two items exist, the one the consumer holds and the next. An
    exception in the thread is raised here, in its place in the order. Closing the generator (or dropping it) sets
    `stopped`, which a slow `make` may look at between its own steps, and waits for the thread. Depth 0: no thread.
    """
    if depth < 1:
        yield from make(threading.Event())
        return
    items: queue.SimpleQueue[object] = queue.SimpleQueue()
    permits = threading.Semaphore(depth)
    stopped = threading.Event()

    def produce() -> None:
        try:
            source = make(stopped)
            while _acquire(permits, stopped):
                try:
                    item: object = next(source)
                except StopIteration:
                    item = _END
                items.put(item)
                if item is _END:
                    return
        except BaseException as error:
            items.put(_Failed(error))

    thread = threading.Thread(target=produce, name=name, daemon=True)
    thread.start()
    try:
        while True:
            item = items.get()
            if item is _END:
                return
            if isinstance(item, _Failed):
                raise item.error
            permits.release()
            yield item  # type: ignore[misc]
            # Held by nobody here while the next one is awaited: for blocks of activations that would be a third in memory.
            item = None
    finally:
        stopped.set()
        thread.join()


def _acquire(permits: threading.Semaphore, stopped: threading.Event) -> bool:
    while not stopped.is_set():
        if permits.acquire(timeout=_POLL_SECONDS):
            return not stopped.is_set()
    return False


class Behind(Generic[T]):
    """Hands items to `handle` in a thread, in order, while the caller goes on.

    `submit` waits while `depth` items are pending and raises what `handle` raised. Leaving the `with` block waits for the
    rest and does the same; leaving it with an exception drops what is still pending.
    """

    def __init__(self, handle: Callable[[T], None], depth: int, name: str):
        self._handle = handle
        self._items: queue.Queue[T | None] = queue.Queue(maxsize=depth)
        self._error: BaseException | None = None
        self._dropping = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self._dropping.set()
        self._items.put(None)
        self._thread.join()
        if kind is None and self._error is not None:
            raise self._error

    def submit(self, item: T) -> None:
        if self._error is not None:
            raise self._error
        self._items.put(item)

    def _work(self) -> None:
        while (item := self._items.get()) is not None:
            # After a failure the queue is still emptied, or a waiting `submit` would wait for ever.
            if self._error is not None or self._dropping.is_set():
                continue
            try:
                self._handle(item)
            except BaseException as error:
                self._error = error
