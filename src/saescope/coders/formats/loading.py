"""`load`: from a folder, a file or the hub, of whatever format, to a coder for use."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from saescope.coders.coder import SparseCoder
from saescope.coders.formats.hub import hub_source, is_hub_spec
from saescope.coders.formats.reading import Given, Reading
from saescope.coders.formats.source import LocalSource, Source, listed
from saescope.coders.formats.table import FORMATS, Format, format_named
from saescope.errors import CoderError, ForeignCoderWarning, UsageError
from saescope.paths import typed_path


def load(
    source: str | Path,
    *,
    format: str | None = None,
    file: str | None = None,
    layer: int | None = None,
    reads: str | None = None,
    writes: str | None = None,
    input_scale: float | Sequence[float] | None = None,
    device: torch.device | str = "cpu",
) -> SparseCoder:
    """A coder for use, in float32, working on raw activations.

    source: a folder, a file, or a repository of the hub: `owner/name`, `owner/name/sub/folder`, `hf:owner/name@revision`.
    format: a name of `FORMATS`; by default it is seen from the files. file, layer: which one, where a folder holds several.
    reads, writes: its hook points, where its files do not say, in our names or other tools'. input_scale: what activations
    are multiplied by before it reads them, where its files leave that to the user (two numbers for a two-model crosscoder).

    What files of other tools leave unsaid and was assumed is a `ForeignCoderWarning` each, and is kept in
    `coder.metadata.imported`. CoderError, in one line, when files are missing, damaged, or must be told more; UsageError when
    they settle what was given.
    """
    found = open_source(source)
    if file is not None:
        found = found.with_file(file)
    row = format_named(format) if format is not None else detect(found)
    scales = (input_scale,) if isinstance(input_scale, int | float) else tuple(input_scale or ())
    reading = Reading(found, Given(reads, writes, layer, scales))
    coder = _read(row, reading)
    if settled := reading.passed_over():
        names = " and ".join(settled)
        raise UsageError(f"{source} is {row.name}, whose files settle {names}; leave {names} out")
    if row.name != "saescope":
        said = {"format": row.name, "source": str(source), "warnings": reading.warnings, "facts": reading.facts}
        coder.metadata.imported = said
        for text in reading.warnings:
            warnings.warn(f"{source}: {text}", ForeignCoderWarning, stacklevel=2)
    return coder.to(device)


def _read(row: Format, reading: Reading) -> SparseCoder:
    try:
        coder: SparseCoder = row.load().read(reading)
    except (TypeError, KeyError, IndexError, AttributeError, OverflowError) as error:
        # What a format's file did not think of is still the file's fault, and said in one line.
        raise CoderError(
            f"{reading.source.spec} cannot be read as {row.name}: {type(error).__name__}, {' '.join(str(error).split())}; "
            "it is damaged or of another format"
        ) from error
    return coder


def open_source(source: str | Path) -> Source:
    """The files of a folder, a file or a repository; no coder is read."""
    spec = str(source)
    path = typed_path(spec)
    try:
        if path.is_dir():
            return LocalSource(spec, path)
        if path.is_file():
            return LocalSource(spec, path.parent, path.name)
    except OSError as error:
        raise CoderError(f"no coder at {spec}: {error.strerror or error}") from None
    except ValueError as error:
        raise CoderError(f"no coder at {spec!r}: {error}") from None
    if isinstance(source, str) and is_hub_spec(spec):
        return hub_source(spec)
    raise CoderError(f"no coder at {spec}: there is no such folder")


def detect(source: Source) -> Format:
    """The first format that recognises the files."""
    for row in FORMATS:
        if row.load().detect(source):
            return row
    below = sorted(
        {name.split("/")[0] for name in source.names if name.endswith(("/cfg.json", "/ae.pt", "/params.npz"))}
    )
    if below and source.chosen is None:
        more = f" and {len(below) - 6} more" if len(below) > 6 else ""
        raise CoderError(f"{source.spec} holds coders and is none itself; give one: {', '.join(below[:6])}{more}")
    looked = (
        f"it has {listed(source.names)}"
        if source.chosen is None
        else "the file is of no format that is known by its name"
    )
    raise CoderError(
        f"{source.spec} is not a coder that saescope recognises: {looked}; formats: {', '.join(row.name for row in FORMATS)}"
    )
