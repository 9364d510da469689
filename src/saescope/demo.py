"""The whole way on a real model and real text: fetch, harvest, train, evaluate, report, index, label."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from saescope import activations, assets
from saescope.activations import StoreStream
from saescope.errors import UsageError
from saescope.evaluation import Evaluation, Subject, contexts_from_store, evaluate
from saescope.features import StoreSource, build_index
from saescope.features.naming import name_features
from saescope.lm import LanguageModel
from saescope.reports import METRICS_FILE, claim, write_report
from saescope.text import Corpus, SequenceOptions
from saescope.training import TrainConfig, Watcher, resolve, train

ARCHITECTURES = ("batchtopk", "matryoshka")


@dataclass(frozen=True)
class DemoOptions:
    """What the demo makes. The defaults take under 15 minutes on two cores."""

    out: Path = Path("demo")
    model: str = "smollm2"
    corpus: str = "demo"
    tokens: int = 400_000
    passes: float = 3
    d_sae: int = 9216
    l0: float = 32
    eval_tokens: int = 40_000
    ce_tokens: int = 16_000


class Audience(Protocol):
    """Who is shown the demo's progress."""

    def stage(self, number: int, of: int, title: str) -> None: ...

    def harvest(self) -> Callable[[Any], None]: ...

    def training(self) -> Watcher: ...

    def evaluation(self) -> Callable[[str, int, int], None]: ...

    def indexing(self) -> Callable[[str, int, int], None]: ...


@dataclass(frozen=True)
class DemoResult:
    """What was made, where, and how long each stage took in seconds."""

    store: Path
    coders: dict[str, Path]
    report: Path
    metrics: Path
    indexes: dict[str, Path]
    evaluations: list[Evaluation]
    seconds: dict[str, float]


def run(options: DemoOptions, audience: Audience) -> DemoResult:
    """Run the demo into `options.out`. What an earlier, interrupted demo finished there is used, not made again."""
    for name in ("tokens", "eval_tokens", "ce_tokens"):
        if getattr(options, name) <= 0:
            raise UsageError(f"--{name.replace('_', '-')} must be positive, got {getattr(options, name)}")
    out, seconds = options.out, {}

    def timed(title: str, number: int) -> Callable[[], None]:
        audience.stage(number, 5, title)
        started = time.perf_counter()

        def done() -> None:
            seconds[title] = round(time.perf_counter() - started, 1)

        return done

    done = timed("fetch", 1)
    if options.model in assets.MODELS:
        assets.fetch(options.model)
    corpus = Corpus.open(options.corpus)
    lm = LanguageModel.load(options.model)
    point = f"resid_post.{middle_layer(lm)}"
    # What training and the report would refuse after minutes of work is refused before it.
    _training(options, point)
    claim(out / "report")
    done()

    done = timed("harvest", 2)
    store = activations.harvest(
        lm,
        corpus,
        [point],
        out / "store",
        tokens=options.tokens,
        options=SequenceOptions(),
        progress=audience.harvest(),
    )
    done()

    done = timed("train", 3)
    config = _training(options, point, sum(store.shard_rows("train")))
    source = StoreStream(store, config.points, batch_size=config.batch_size, passes=config.passes)
    try:
        train(config, source, out / "run", device=lm.device, watcher=audience.training())
    finally:
        source.close()
    coders = {coder.name: out / "run" / "coders" / coder.name for coder in config.coders}
    done()

    done = timed("evaluate", 4)
    tell = audience.evaluation()
    subjects = [Subject.of(folder) for folder in coders.values()]
    evaluations = evaluate(
        subjects, lm, corpus, max_tokens=options.eval_tokens, ce_tokens=options.ce_tokens, progress=tell
    )
    # Ten times the held-out text stands in the store, so rare features have contexts to show.
    evaluations = contexts_from_store(evaluations, subjects, store, tell)
    report = write_report(evaluations, out / "report", lm.tokenizer)
    done()

    done = timed("index", 5)
    tell = audience.indexing()
    indexes = {}
    for subject, (name, folder) in zip(subjects, coders.items(), strict=True):
        indexes[name] = folder / "index"
        index = build_index(
            subject.coder,
            StoreSource(subject.coder, store),
            indexes[name],
            coder_path=folder,
            lm=lm,
            progress=_of_coder(tell, name),
        )
        name_features(index, _of_coder(tell, name))
    done()
    metrics = report.with_name(METRICS_FILE)
    return DemoResult(out / "store", coders, report, metrics, indexes, evaluations, seconds)


def _training(options: DemoOptions, point: str, rows: int | None = None) -> TrainConfig:
    """The training of every architecture at the point; `rows`, of one pass, decide the batch size."""
    return resolve(
        None,
        {"passes": options.passes},
        {"d_sae": options.d_sae},
        archs=ARCHITECTURES,
        l0s=[options.l0],
        available=[point],
        rows=rows,
    )


def _of_coder(tell: Callable[[str, int, int], None], name: str) -> Callable[[str, int, int], None]:
    return lambda stage, done, total: tell(f"{name}: {stage}", done, total)


def middle_layer(lm: LanguageModel) -> int:
    """The layer whose output is the middle of the residual stream."""
    return lm.n_layers // 2 - 1
