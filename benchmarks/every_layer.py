"""A transcoder for the MLP of every layer in one streamed pass over the model, then measured: quality, time and memory.

    python benchmarks/every_layer.py [--tokens 300000] [--skip] [--memory 1GiB] [--out FOLDER]

Trains `mlp_in.L -> mlp_out.L` for all layers of a model from its activations as they are made, with nothing on disk but the
coders, and evaluates them on documents that trained none. Prints a row a layer, seconds, tokens/s, and the largest resident
memory of this process, which is compared with the target.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

TARGET_GIB = 8.0


def peak_gib() -> float:
    """Largest resident memory of this process so far. Linux counts in KiB, macOS in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--corpus", default="demo")
    parser.add_argument("--reads", default="mlp_in.*")
    parser.add_argument("--writes", default="mlp_out.*")
    parser.add_argument("--skip", action="store_true", help="skip transcoders: add a linear path")
    parser.add_argument("--d-sae", type=int, default=2304)
    parser.add_argument("--l0", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=330_000, help="of text; about a tenth is held out")
    parser.add_argument("--batch-size", type=int, help="default: from the number of tokens")
    parser.add_argument("--memory", default="1GiB", help="for the two blocks of rows that are shuffled")
    parser.add_argument("--eval-tokens", type=int, default=4096)
    parser.add_argument(
        "--ce-tokens", type=int, default=1024, help="of these; each costs four more runs of every layer"
    )
    parser.add_argument("--out", type=Path, help="keep run and report here")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return run(given, given.out or Path(folder))


def run(given: argparse.Namespace, out: Path) -> int:
    import saescope
    from saescope.activations import parse_bytes
    from saescope.cli.progress import training_bar
    from saescope.cli.tables import results_table
    from saescope.evaluation import Subject
    from saescope.training import resolve

    console = Console(highlight=False, soft_wrap=True)
    lm = saescope.LanguageModel.load(given.model)
    corpus = saescope.Corpus.open(given.corpus)
    config = resolve(
        None,
        {"batch_size": given.batch_size},
        {"d_sae": given.d_sae, "skip": given.skip},
        l0s=[given.l0],
        reads=given.reads,
        writes=given.writes,
        available=lm.point_names,
        rows=given.tokens,
    )
    started = time.perf_counter()
    source = saescope.ModelStream(
        lm,
        corpus,
        config.points,
        tokens=given.tokens,
        batch_size=config.batch_size,
        seed=config.seed,
        passes=config.passes,
        memory=parse_bytes(given.memory),
    )
    n_tokens = source.n_steps * config.batch_size
    try:
        with training_bar() as watcher:
            saescope.train(config, source, out / "run", device=lm.device, watcher=watcher)
    finally:
        source.close()
    trained, trained_gib = time.perf_counter() - started, peak_gib()

    started = time.perf_counter()
    subjects = [Subject.of(out / "run" / "coders" / coder.name) for coder in config.coders]
    found = saescope.evaluate(subjects, lm, corpus, max_tokens=given.eval_tokens, ce_tokens=given.ce_tokens)
    report = saescope.write_report(found, out / "eval", lm.tokenizer)
    measured, total_gib = time.perf_counter() - started, peak_gib()

    console.print(results_table(found))
    console.print(
        f"{len(config.coders)} coders at {len(config.points)} hook points, {n_tokens:,} training tokens: {trained:,.0f} s, "
        f"{n_tokens / trained:,.0f} tokens/s through all coders, {trained_gib:.2f} GiB at most\n"
        f"evaluation on {found[0].evaluation['kept_tokens']:,} tokens, and a report of "
        f"{report.stat().st_size / 2**20:.1f} MiB: {measured:,.0f} s\n"
        f"{total_gib:.2f} GiB at most in all, target {TARGET_GIB:.0f}: {'within' if total_gib <= TARGET_GIB else 'OVER'}"
    )
    return int(total_gib > TARGET_GIB)


if __name__ == "__main__":
    sys.exit(main())
