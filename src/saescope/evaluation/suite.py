"""The parts of an evaluation beyond the core: one table, read by the command line, the report and the documentation."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import dataclass

from saescope.errors import UsageError, nearest
from saescope.evaluation.part import Part
from saescope.evaluation.setting import Setting
from saescope.evaluation.subject import Subject

CORE = "core"


@dataclass(frozen=True)
class PartKind:
    """A part by name. module: under `saescope.evaluation`, with `measure(subjects, setting) -> one Part a subject`."""

    name: str
    title: str
    summary: str
    module: str


PARTS: tuple[PartKind, ...] = (
    PartKind(
        "probing",
        "Sparse probing",
        "How well a few latents tell labelled texts and tokens apart, beside dimensions, a dense probe and random latents.",
        "probing",
    ),
    PartKind(
        "absorption",
        "First letters, splitting, absorption",
        "Whether latents for a token's first letter split, or fall silent where a more special latent has taken their part.",
        "letters",
    ),
    PartKind(
        "effects",
        "Targeted effects",
        "What ablating the latents attributed to a class does to its probe, and to the others' probes.",
        "effects",
    ),
    PartKind(
        "stability",
        "Stability over seeds",
        "The share of latents that training again, from another seed, finds again. Needs several coders of one shape.",
        "stability",
    ),
)


def chosen_parts(names: Sequence[str]) -> list[PartKind]:
    """The kinds of these names, in the table's order; `core` is always measured and may be named, `all` means all."""
    known = {kind.name: kind for kind in PARTS}
    wanted = set(known) if "all" in names else set()
    for name in names:
        if name in known:
            wanted.add(name)
        elif name not in (CORE, "all"):
            raise UsageError(
                f"no part {name!r} in the suite; there are {', '.join([CORE, *known])}{nearest(name, known)}"
            )
    return [kind for kind in PARTS if kind.name in wanted]


def measure_parts(kinds: Sequence[PartKind], subjects: Sequence[Subject], setting: Setting) -> list[list[Part]]:
    """Of each subject, its parts in the order of `kinds`."""
    found: list[list[Part]] = [[] for _ in subjects]
    for kind in kinds:
        module = importlib.import_module(f"saescope.evaluation.{kind.module}")
        for parts, part in zip(found, module.measure(subjects, setting), strict=True):
            parts.append(part)
    return found
