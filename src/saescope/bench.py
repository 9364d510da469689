"""How fast coders train on this machine, where the time goes, and how far that is from the limit.

The limit of an exact method is the encoder's dense product, [tokens, d_in] · [d_in, d_sae]: every pre-activation has to be
known before the largest can be chosen. It is timed bare, in turns with whole training steps, so that a busy machine slows both.
"""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.coders import architecture_type
from saescope.errors import UsageError
from saescope.kernels import active
from saescope.kernels.dispatch import timed, wait_and_clock
from saescope.lm import has_native_bf16, resolve_device
from saescope.training import CoderConfig, TrainConfig
from saescope.training.member import Member, Moments

if TYPE_CHECKING:
    from saescope.lm import LanguageModel
    from saescope.text import Corpus

# What each operation of the kernels is, in a training step.
STAGES = {
    "encoder product and choice of latents": ("select_topk", "select_batch_topk", "select_threshold"),
    "values of the chosen": ("sampled_product",),
    "decode, error, gradient of the values": ("reconstruct", "decode"),
    "weight gradients": ("weight_gradient", "latent_sum"),
    "projection, clipping, Adam, unit rows": ("tangent", "adam"),
}
REST = "the rest: normalising, loss, autograd"
FEWEST_TOKENS = 1024
_WARM_UP = 3
# The first times a product of tens of megabytes is made, the system has no large pages to give it yet.
_PRODUCT_WARM_UP = 8


@dataclass(frozen=True)
class Shape:
    """What is timed. `dead`: share of latents treated as dead, which turns AuxK on."""

    arch: str = "batchtopk"
    d_in: int = 576
    d_sae: int = 9216
    l0: int = 32
    batch_size: int = 4096
    dead: float = 0.0


@dataclass(frozen=True)
class StepTimes:
    """Seconds of whole steps and of the bare product beside them, of each stage of a step, and bytes of memory."""

    shape: Shape
    kernels: str
    dtype: str
    steps: list[float]
    products: list[float]
    stages: dict[str, float]
    memory: int | None = None
    l0: float = 0.0

    @property
    def step(self) -> float:
        return statistics.median(self.steps)

    @property
    def product(self) -> float:
        return statistics.median(self.products)

    @property
    def tokens_per_second(self) -> float:
        return self.shape.batch_size / self.step

    @property
    def ratios(self) -> list[float]:
        """Step over product, pair by pair, ascending."""
        return sorted(step / product for step, product in zip(self.steps, self.products, strict=True))


@dataclass(frozen=True)
class TextTimes:
    """Seconds for the same text: the model alone, and the model with so many coders in training. tokens: that trained."""

    tokens: int
    point: str
    alone: float
    trained: dict[int, float] = field(default_factory=dict)


def time_steps(shape: Shape, *, pairs: int = 9, device: torch.device | str = "auto", memory: bool = True) -> StepTimes:
    """Train on synthetic activations (sparse sums of random directions) of the given shape. Raises `UsageError` on an
    impossible one. `memory`: also measure it, which is right in a process that has not trained before."""
    device = resolve_device(device)
    selection = torch.bfloat16 if has_native_bf16(device) else torch.float32
    batch = synthetic_batch(shape).to(device)
    member_l0: list[float] = []
    weight = torch.randn(shape.d_sae, shape.d_in, device=device, dtype=selection)
    x = batch.to(selection)

    def step(member: Member, index: int) -> float:
        if shape.dead:
            numbers = torch.arange(round(shape.dead * shape.d_sae), device=device)
            silent = member.firing.silent.clone()
            silent[numbers] = 10 * member.dead_horizon
            member.firing.load_state({"silent": silent, "dead_list": numbers})
        started = wait_and_clock(device)
        loss, _ = member.step(batch, index)
        seconds = wait_and_clock(device) - started
        member_l0.append(float(loss.done.l0))
        return seconds

    def product() -> float:
        started = wait_and_clock(device)
        x @ weight.T
        return wait_and_clock(device) - started

    with peak_memory(device) as peak:
        member = _member(shape, batch, device, selection)
        for index in range(_WARM_UP):
            step(member, index)
    steps, products = [], []
    for _ in range(_PRODUCT_WARM_UP):
        product()
    for index in range(pairs):
        steps.append(step(member, _WARM_UP + index))
        products.append(product())
    with timed(device) as seconds:
        whole = [step(member, _WARM_UP + pairs + index) for index in range(3)]
    stages = {stage: sum(seconds.get(name, 0.0) for name in names) / len(whole) for stage, names in STAGES.items()}
    stages[REST] = max(0.0, sum(whole) / len(whole) - sum(stages.values()))
    weights = 4 * sum(parameter.nbytes for parameter in member.coder.parameters())
    above = max(0, peak.bytes - weights) if memory and peak.bytes is not None else None
    dtype = str(selection).removeprefix("torch.")
    return StepTimes(shape, active(device).name, dtype, steps, products, stages, above, member_l0[-1])


def time_text(
    lm: LanguageModel,
    corpus: Corpus,
    point: str,
    *,
    tokens: int = 16384,
    coders: tuple[int, ...] = (1, 8),
    shape: Shape | None = None,
) -> TextTimes:
    """Run `tokens` of text, or all there is, through the model as far as `point`, alone and with coders in training on it.
    UsageError for fewer than `FEWEST_TOKENS`."""
    from saescope.activations import ModelStream

    if tokens < FEWEST_TOKENS:
        raise UsageError(f"{tokens:,} tokens of text are too few to time; give at least {FEWEST_TOKENS:,}")
    shape = shape or Shape(d_in=lm.width(point))
    n_rows = 0
    selection = torch.bfloat16 if has_native_bf16(lm.device) else torch.float32

    def run(n_coders: int) -> float:
        nonlocal n_rows
        source = ModelStream(lm, corpus, point, tokens=tokens, batch_size=min(shape.batch_size, tokens // 4))
        try:
            # Not what was asked for: the text may end before, and documents held out of training are not run.
            n_rows = source.n_steps * source.batch_size
            started = wait_and_clock(lm.device)
            members: list[Member] = []
            for index, batch in enumerate(source):
                rows = batch.to(lm.device)
                if index == 0:
                    members = [_member(shape, rows, lm.device, selection) for _ in range(n_coders)]
                for member in members:
                    member.step(rows, index)
            return wait_and_clock(lm.device) - started
        finally:
            source.close()

    run(0)
    alone, trained = run(0), {n: run(n) for n in coders}
    return TextTimes(n_rows, point, alone, trained)


def synthetic_batch(shape: Shape) -> Float[Tensor, "tokens d_in"]:
    """Sparse sums of random directions: selection and firing behave as on real activations, unlike on white noise."""
    generator = torch.Generator().manual_seed(0)
    n_directions = max(1, min(shape.d_sae // 4, 4096))
    directions = torch.randn(n_directions, shape.d_in, generator=generator)
    chosen = torch.randint(0, n_directions, (shape.batch_size, 20), generator=generator)
    return torch.nn.functional.embedding_bag(chosen, directions, mode="sum").bfloat16()


def _member(shape: Shape, batch: Float[Tensor, "tokens d_in"], device: torch.device, selection: torch.dtype) -> Member:
    kind = architecture_type(shape.arch, trainable=True)
    coder = CoderConfig(
        name=shape.arch, arch=shape.arch, d_sae=shape.d_sae, options={kind.l0_option: shape.l0}, reads=("x",)
    )
    rows = batch.float().cpu()
    mean = rows.mean(0)
    moments: Moments = {"x": (mean, float((rows - mean).pow(2).sum(1).mean()))}
    run = TrainConfig(coders=(coder,), batch_size=shape.batch_size)
    member = Member(coder, run, {"x": slice(0, rows.shape[1])}, moments, 1000, device, selection)
    member.prepare(batch)
    return member


@dataclass
class Peak:
    """The most memory seen; None where the system does not tell."""

    bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Memory of the process above what it had before: the device's, or on a processor what is not mapped from files."""
    peak = Peak()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    before_anonymous = anonymous_memory()
    if before_anonymous is None:
        yield peak
        return
    stop = threading.Event()
    seen = [before_anonymous]

    def watch() -> None:
        while not stop.wait(0.002):
            seen.append(max(seen.pop(), anonymous_memory() or 0))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        stop.set()
        watcher.join()
    # Once more at the end: the watcher may have slept through a short block.
    peak.bytes = max(seen[0], anonymous_memory() or 0) - before_anonymous


def anonymous_memory() -> int | None:
    """Bytes of this process's resident memory that are not mapped from files, or None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    found = [line for line in lines if line.startswith("RssAnon:")]
    return int(found[0].split()[1]) * 1024 if found else None
