"""The command line: one file per command group. Parses, calls the library, prints."""

from __future__ import annotations

import atexit
import io
import os
import re
import sys
import warnings
from typing import NoReturn, TextIO

import typer
from rich.console import Console

from saescope.errors import ForeignCoderWarning, SaescopeError

app = typer.Typer(
    name="saescope",
    help="From a language model's activations to named, measured, steerable features.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# Commands that keep what they have done, and begin behind it when they are given again.
_GOES_ON = {"demo", "harvest", "train", "sweep", "synthetic", "index", "label"}
_GOES_ON_SAID = "; the same command goes on from where it stopped"


@app.callback()
def _options(
    quiet: bool = typer.Option(False, "--quiet", "-q", help="No progress, only results and errors."),
) -> None:
    if quiet:
        os.environ["SAESCOPE_QUIET"] = "1"


def _register() -> None:
    from saescope.cli import (
        bench,
        cache,
        convert,
        demo,
        doctor,
        evaluate,
        export_features,
        fetch,
        harvest,
        index,
        label,
        serve,
        sweep,
        synthetic,
        train,
    )

    for commands in (
        demo,
        fetch,
        cache,
        harvest,
        train,
        evaluate,
        index,
        label,
        serve,
        export_features,
        sweep,
        synthetic,
        convert,
        doctor,
        bench,
    ):
        commands.register(app)


def main() -> NoReturn:
    """Entry point: every refusal is one line on standard error; 2 for usage, 1 for failure, 130 when interrupted."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    warnings.filterwarnings("ignore", module=r"(torch|transformers)\..*")
    warnings.showwarning = _show
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal may not have a minus sign or the letters of a path; results are worth more than one of their characters.
        sys.stdout.reconfigure(errors="replace")
    _register()
    _leave(_run())


def _run() -> int:
    """The exit code of the command that was typed."""
    try:
        code = app(standalone_mode=False)
    except SaescopeError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # The reader (head, less) has gone; there is no one left to tell.
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        return 141
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        _complain(f"{error.strerror or error}{where}")
        return 1
    except Exception as error:
        if (lacking := _memory_lacking(error)) is not None:
            _complain(f"out of memory{lacking}; ask for less at once (d_sae, batch size, --memory) or another device")
            return 1
        # What typer's parser raises is click's or, in newer versions, its own copy of click's: known by its methods.
        if not (hasattr(error, "exit_code") and hasattr(error, "format_message")):
            raise
        # Without a word it has shown the help itself.
        if said := error.format_message():
            _complain(f"{said} See saescope --help.")
        return int(error.exit_code)
    if code == 130:
        # Where typer has caught the interruption itself, the code is all that it leaves of it.
        _complain(f"interrupted{_GOES_ON_SAID if _command() in _GOES_ON else ''}")
    return code if isinstance(code, int) else 0


def _memory_lacking(error: Exception) -> str | None:
    """What could not be allocated, where it is said; None for any other error. torch's own class for a GPU that is full is
    known by its name, so that a command without torch needs none; its allocator on the CPU raises a RuntimeError."""
    said = str(error)
    full = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if not full and not (isinstance(error, RuntimeError) and "can't allocate memory" in said):
        return None
    size = re.search(r"allocate ([\d.]+) ?(bytes|[KMGT]iB)", said)
    if size is None:
        return ""
    amount, unit = float(size[1]), size[2]
    if unit == "bytes":
        amount, unit = amount / 2**30, "GiB"
    return f": {amount:,.1f} {unit} could not be allocated"


def _command() -> str:
    """The name of the command that was typed."""
    return next((word for word in sys.argv[1:] if not word.startswith("-")), "")


def _leave(code: int) -> NoReturn:
    """End the process when all is done and written. What follows Python's own end is skipped: there the threads of native
    libraries, torn down in no order, now and then abort a process that has succeeded."""
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = 141
    os._exit(code)


def _show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """What our own warnings say, in a line; Python's place and source line would say nothing to who typed a command."""
    if issubclass(category, ForeignCoderWarning):
        Console(stderr=True, highlight=False).print(f"[yellow]assumed:[/] {_escaped(str(message))}", soft_wrap=True)
    else:
        (file or sys.stderr).write(warnings.formatwarning(message, category, filename, lineno, line))


def _complain(message: str) -> None:
    Console(stderr=True, highlight=False).print(f"[bold red]saescope:[/] {_escaped(message)}", soft_wrap=True)


def _escaped(message: str) -> str:
    from rich.markup import escape

    return escape(" ".join(message.split()))
