"""The one model of a server: loaded when first asked for, shared by all who ask, never more work at once than it can finish.

Work runs on threads of its own, few in number, so that pages of the index never wait behind it. Who asks takes a place in a
bounded queue; who goes away gives it up; who waits too long is told so.
"""

from __future__ import annotations

import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar

import anyio
from starlette.requests import Request

from saescope.errors import ModelError, SaescopeError
from saescope.lm import LanguageModel

Result = TypeVar("Result")
State = Literal["absent", "loading", "ready", "failed"]
# Requests at once, those that wait included, and threads that work on them, which take turns at the model.
PLACES, THREADS = 16, 4
# Seconds: for the model to be loaded, for a run, between two looks whether the client is still there.
LOADING, RUNNING, LOOK = 60.0, 120.0, 0.25
_CLOSING = "the server is closing down"


class Busy(SaescopeError):  # noqa: N818 - as the others of its kind
    """Not now: too many wait already, the model is still loading, or the work took too long. Try again later."""


class ClientGone(Exception):  # noqa: N818 - reads as the event it is
    """Who asked has closed the connection; nobody reads an answer."""


class Cancelled(Exception):  # noqa: N818
    """Set from outside while work was under way."""


class Stop:
    """Told to work that goes on step by step: whether anyone still wants it. `everything`: set when the server ends."""

    def __init__(self, everything: threading.Event) -> None:
        self.event = threading.Event()
        self._everything = everything

    def check(self) -> None:
        """Cancelled, once nobody does."""
        if self.event.is_set() or self._everything.is_set():
            raise Cancelled


class _Place:
    """One request's place. It is free again when both the request and the thread that works for it have left: work that was
    given up, but could not be interrupted, still counts."""

    def __init__(self, taken: set[_Place], lock: threading.Lock, ending: threading.Event) -> None:
        self.stop = Stop(ending)
        self._taken, self._lock, self._inside = taken, lock, 0

    def enter(self) -> None:
        with self._lock:
            self._inside += 1

    def leave(self) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._taken.discard(self)


class ModelWorker:
    """`spec`: what the model is loaded by; `named`: by the person who serves, not by an index; `load` for tests and models in
    memory."""

    def __init__(
        self,
        spec: str,
        *,
        named: bool = False,
        load: Callable[[], LanguageModel] | None = None,
        places: int = PLACES,
        threads: int = THREADS,
        loading: float = LOADING,
        running: float = RUNNING,
    ) -> None:
        self.spec, self.named = spec, named
        self._load = load or (lambda: LanguageModel.load(spec))
        self._places, self._threads = places, threads
        self._loading_patience, self._running_patience = loading, running
        self._taken: set[_Place] = set()
        self._state: State = "absent"
        self._message = ""
        self._lm: LanguageModel | None = None
        self._lock = threading.Lock()
        self._loaded = threading.Event()
        self._limiter: anyio.CapacityLimiter | None = None
        self._stopping = threading.Event()

    @property
    def state(self) -> State:
        return self._state

    @property
    def message(self) -> str:
        """Why the model could not be loaded, in one line."""
        return self._message

    @property
    def lm(self) -> LanguageModel | None:
        """The model where it is loaded."""
        return self._lm

    def begin_loading(self) -> None:
        """Start to load the model, unless that has been started. One that failed is tried again."""
        with self._lock:
            if self._state in ("loading", "ready"):
                return
            if not self.spec:
                self._state, self._message = "failed", "no model is known; name it with saescope serve --model"
                self._loaded.set()
                return
            self._state, self._message = "loading", ""
            self._loaded.clear()
            threading.Thread(target=self._run_loading, name="saescope-model", daemon=True).start()

    def _run_loading(self) -> None:
        try:
            self._lm = self._load()
            self._state = "ready"
        except SaescopeError as error:
            self._message, self._state = str(error), "failed"
        except Exception as error:
            self._message = (
                f"{self.spec} could not be loaded: {type(error).__name__}, {' '.join(str(error).split())[:200]}"
            )
            self._state = "failed"
        finally:
            self._loaded.set()

    def stop(self) -> None:
        """End all work under way at its next step, and take no more. Takes no lock: a signal may come while one is held."""
        self._stopping.set()

    async def run(self, request: Request, work: Callable[[LanguageModel, Stop], Result]) -> Result:
        """`work(lm, stop)` on a thread. Busy when there is no place or it takes too long, ClientGone when nobody waits."""
        with self._place() as place:

            async def run() -> Result:
                lm = await self._ready()
                try:
                    with anyio.fail_after(self._running_patience):
                        return await self._on_thread(place, lambda: work(lm, place.stop))
                except TimeoutError:
                    raise Busy("the model took too long over this; send less text, or try again later") from None

            try:
                return await _while_waited_for(request, run)
            except Cancelled:
                raise Busy(_CLOSING) from None

    async def stream(
        self, work: Callable[[LanguageModel, Stop], Generator[Result, None, None]]
    ) -> AsyncGenerator[Result, None]:
        """What `work(lm, stop)` gives, one by one. When the consumer stops, the generator is closed at its next step."""
        with self._place() as place:
            lm = await self._ready()
            generator = await self._on_thread(place, lambda: work(lm, place.stop))
            try:
                while True:
                    # A step is waited for, even by who has been cancelled, so that nothing runs when it is closed.
                    one: list[Result] = await self._on_thread(place, lambda: _next(generator), abandon=False)
                    if not one:
                        return
                    yield one[0]
            except Cancelled:
                return
            finally:
                generator.close()

    async def begun(self, request: Request, events: AsyncGenerator[Result, None]) -> Result:
        """The first of a stream's events. Busy where the server ends before it, ClientGone when nobody waits."""
        try:
            return await _while_waited_for(request, events.__anext__)
        except StopAsyncIteration:
            raise Busy(_CLOSING) from None

    async def _ready(self) -> LanguageModel:
        self.begin_loading()
        until = time.monotonic() + self._loading_patience
        while not self._loaded.is_set():
            if time.monotonic() > until or self._stopping.is_set():
                raise Busy(f"{self.spec} is still loading; try again in a moment")
            await anyio.sleep(0.02)
        if self._lm is None:
            raise ModelError(self._message)
        return self._lm

    async def _on_thread(self, place: _Place, work: Callable[[], Result], *, abandon: bool = True) -> Result:
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(self._threads)

        def kept_in_place() -> Result:
            place.enter()
            try:
                place.stop.check()
                return work()
            finally:
                place.leave()

        return await anyio.to_thread.run_sync(kept_in_place, abandon_on_cancel=abandon, limiter=self._limiter)

    @contextmanager
    def _place(self) -> Iterator[_Place]:
        if self._stopping.is_set():
            raise Busy(_CLOSING)
        with self._lock:
            if len(self._taken) >= self._places:
                raise Busy(f"{len(self._taken)} requests wait for the model already; try again in a moment")
            place = _Place(self._taken, self._lock, self._stopping)
            self._taken.add(place)
        place.enter()
        try:
            yield place
        finally:
            place.stop.event.set()
            place.leave()


async def _while_waited_for(request: Request, work: Callable[[], Awaitable[Result]]) -> Result:
    """What `work()` gives; cancelled, with ClientGone, when who asked has gone."""
    found: list[Result] = []
    failed: list[Exception] = []
    async with anyio.create_task_group() as group:

        async def watch() -> None:
            while not await request.is_disconnected():
                await anyio.sleep(LOOK)
            group.cancel_scope.cancel()

        async def do() -> None:
            try:
                found.append(await work())
            except Exception as error:
                # Raised below: a group of tasks would wrap it.
                failed.append(error)
            group.cancel_scope.cancel()

        group.start_soon(watch)
        group.start_soon(do)
    if found:
        return found[0]
    raise failed[0] if failed else ClientGone()


def _next(generator: Generator[Result, None, None]) -> list[Result]:
    """The next value in a list, or an empty one at the end: StopIteration cannot leave a thread."""
    try:
        return [next(generator)]
    except StopIteration:
        return []
    except Cancelled:
        return []
