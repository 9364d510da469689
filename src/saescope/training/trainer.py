"""The loop: batches to every coder of the run, metrics, checkpoints, and a clean stop at a step's end."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.activations import ActivationSource
from saescope.errors import TrainingError
from saescope.training.checkpoint import Checkpoints, conditions, refuse_other_conditions
from saescope.training.config import TrainConfig
from saescope.training.journal import Logger
from saescope.training.member import Member
from saescope.training.objective import Loss


@dataclass(frozen=True)
class Progress:
    """What a watcher is told after a step: metrics by coder name, those just measured or the latest."""

    step: int
    n_steps: int
    tokens_per_second: float
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


Watcher = Callable[[Progress], None]


class Trainer:
    """Trains members on a source of batches, from the newest checkpoint if there is one.

    Raises `TrainingError` on a non-finite loss, naming the step and the last good checkpoint, and `KeyboardInterrupt`
    after writing a checkpoint when interrupted.
    """

    def __init__(
        self,
        config: TrainConfig,
        members: list[Member],
        source: ActivationSource,
        checkpoints: Checkpoints,
        device: torch.device,
        watcher: Watcher | None = None,
    ) -> None:
        self.config, self.members, self.source = config, members, source
        self.checkpoints, self.device, self.watcher = checkpoints, device, watcher
        self.n_steps = source.n_steps
        self.step = 0
        self.seconds = 0.0
        self._latest: dict[str, dict[str, float]] = {member.name: {} for member in members}

    def resume(self) -> int:
        """Load the newest checkpoint, if any, and return the number of steps already done."""
        path = self.checkpoints.newest()
        if path is None:
            return 0
        state = Checkpoints.read_state(path)
        refuse_other_conditions(state["conditions"], conditions(self.device, self.members[0].selection), path)
        for member in self.members:
            member.load_state(Checkpoints.read_tensors(path, member.name))
        self.source.load_state_dict(state["source"])
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        return self.step

    def save(self, losses: dict[str, tuple[Loss, Tensor]]) -> Path:
        """Write a checkpoint after a step with these losses; TrainingError, and none, where one is not finite."""
        self._refuse_non_finite(losses)
        state: dict[str, Any] = {
            "conditions": conditions(self.device, self.members[0].selection),
            "source": self.source.state_dict(),
            "seconds": self.seconds,
        }
        return self.checkpoints.save(self.step, {member.name: member.state() for member in self.members}, state)

    def run(self, loggers: list[Logger], held_out: Float[Tensor, "rows d_total"] | None) -> None:
        """Train to the end of the source."""
        config, n_steps = self.config, self.n_steps
        log_every = config.every(config.log_every, n_steps)
        held_every = config.every(config.held_out_every, n_steps)
        save_every = config.every(config.checkpoint_every, n_steps)
        started, first = time.perf_counter(), self.step
        began = started - self.seconds
        losses: dict[str, tuple[Loss, Tensor]] = {}
        with _stop_requests() as stop:
            batches = iter(self.source)
            while (batch := self._next_batch(batches, stop, losses)) is not None:
                on_device = batch.to(self.device, non_blocking=True)
                losses = {member.name: member.step(on_device, self.step) for member in self.members}
                self.step += 1
                self.seconds = time.perf_counter() - began
                last = self.step == n_steps
                held_now = held_out is not None and (self.step % held_every == 0 or last)
                if self.step % log_every == 0 or held_now or last or self.step == 1:
                    for member in self.members:
                        fresh = self._measure(member, losses)
                        if held_out is not None and held_now:
                            fresh |= member.held_out(held_out)
                        for logger in loggers:
                            logger.log(self.step, member.name, fresh)
                        self._latest[member.name] |= fresh
                self._tell(first, started)
                if self.step % save_every == 0 and not last:
                    self.save(losses)
                if stop.asked and not last:
                    self.save(losses)
                    raise KeyboardInterrupt
                if last:
                    break

    def _next_batch(
        self, batches: Iterator[Float[Tensor, "batch d_total"]], stop: _Stop, losses: dict[str, tuple[Loss, Tensor]]
    ) -> Float[Tensor, "batch d_total"] | None:
        """The next batch, given up at once when asked to stop: where the model makes it, it may be minutes away.
        `losses` are of the step before, empty where there was none."""
        # Once the source has counted it, it is trained on, or the checkpoint would be a batch ahead of the weights.
        stop.at_once = lambda: self.source.step == self.step
        try:
            return next(batches, None)
        except KeyboardInterrupt:
            if losses:
                self.save(losses)
            raise
        finally:
            stop.at_once = _never

    def _measure(self, member: Member, losses: dict[str, tuple[Loss, Tensor]]) -> dict[str, float]:
        # Reading a loss waits for the device, so it is done at log intervals only; a loss that went non-finite in
        # between stays so, and no checkpoint is written without this check.
        self._refuse_non_finite(losses)
        loss, norm = losses[member.name]
        codes = loss.done.codes
        metrics = {
            "tokens": float(self.step * self.config.batch_size),
            "loss": float(loss.reconstruction),
            "fvu": float(loss.fvu),
            "l0": float((codes.values > 0).sum()) / codes.n_tokens,
            "dead": float(member.firing.dead(member.dead_horizon).float().mean()),
            "gradient_norm": float(norm),
            "learning_rate": member.optimiser.rate,
            "seconds": self.seconds,
        }
        if loss.aux is not None:
            metrics["aux_loss"] = float(loss.aux.value.detach())
        return metrics

    def _refuse_non_finite(self, losses: dict[str, tuple[Loss, Tensor]]) -> None:
        for name, (loss, norm) in losses.items():
            if not (math.isfinite(float(loss.total.detach())) and math.isfinite(float(norm))):
                newest = self.checkpoints.newest()
                good = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint yet"
                raise TrainingError(
                    f"coder {name!r} has a non-finite loss at step {self.step} of {self.n_steps}; {good}; lower its "
                    "learning rate (lr) or look for NaN in the store, in a new output folder"
                )

    def _tell(self, first: int, started: float) -> None:
        if self.watcher is not None:
            rate = (self.step - first) * self.config.batch_size / max(1e-9, time.perf_counter() - started)
            self.watcher(Progress(self.step, self.n_steps, rate, self._latest))


def _never() -> bool:
    return False


@dataclass
class _Stop:
    """A request to stop, and whether it may cut short what goes on at this moment."""

    asked: bool = False
    at_once: Callable[[], bool] = _never


@contextmanager
def _stop_requests() -> Iterator[_Stop]:
    """Turns Ctrl-C and a polite kill into a request, so that a step is never cut in half. A second Ctrl-C is immediate."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def handle(number: int, frame: FrameType | None) -> None:
        again, stop.asked = stop.asked, True
        if again or stop.at_once():
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
