"""Training curves, from a coder's own record of its run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from saescope.reports.plots import Figure, Line

History = Sequence[dict[str, float]]
_X = "training tokens"


def training_figures(history: History) -> list[Figure]:
    """Loss, FVU, L0, dead latents and speed against tokens; nothing where nothing was recorded."""
    if not history:
        return []
    return [
        Figure(
            "Loss",
            _X,
            _change("Loss", _curve(history, "loss")),
            lines=[Line("training batch", _curve(history, "loss"))],
            log_y=_spans_a_decade(history, "loss"),
            note="Squared error per dimension of normalised activations.",
        ),
        Figure(
            "FVU",
            _X,
            _change("Held-out FVU", _curve(history, "held_out_fvu_centered")),
            lines=[
                Line("training batch", _curve(history, "fvu")),
                Line("held-out documents", _curve(history, "held_out_fvu_centered"), marks=True),
            ],
            note="A growing gap between the two is overfitting.",
        ),
        Figure(
            "L0",
            _X,
            _change("L0", _curve(history, "l0")),
            lines=[
                Line("training batch", _curve(history, "l0")),
                Line("held-out documents", _curve(history, "held_out_l0"), marks=True),
            ],
            note="Held-out L0 is what the coder's threshold gives, not the training rule.",
        ),
        Figure(
            "Dead latents",
            _X,
            _change("Share of dead latents", _curve(history, "dead")),
            lines=[Line("share silent in training", _curve(history, "dead"))],
            note="Share of latents that have not fired for the horizon the run set.",
        ),
        Figure(
            "Speed",
            _X,
            _change("Tokens a second", _speed(history)),
            lines=[Line("tokens/s", _speed(history))],
            note="Training tokens a second between records, evaluation on held-out rows included.",
        ),
    ]


def _curve(history: History, key: str) -> list[tuple[float, float]]:
    return [
        (entry["tokens"], entry[key])
        for entry in history
        if "tokens" in entry and key in entry and math.isfinite(entry[key])
    ]


def _speed(history: History) -> list[tuple[float, float]]:
    timed = [entry for entry in history if "tokens" in entry and "seconds" in entry]
    return [
        (after["tokens"], (after["tokens"] - before["tokens"]) / (after["seconds"] - before["seconds"]))
        for before, after in pairwise(timed)
        if after["seconds"] > before["seconds"] and after["tokens"] > before["tokens"]
    ]


def _spans_a_decade(history: History, key: str) -> bool:
    values = [value for _, value in _curve(history, key)]
    return bool(values) and min(values) > 0 and max(values) / min(values) >= 10


def _change(what: str, curve: list[tuple[float, float]]) -> str:
    if not curve:
        return f"{what}: not recorded."
    return f"{what} goes from {curve[0][1]:.3g} to {curve[-1][1]:.3g} over {curve[-1][0]:,.0f} training tokens."
