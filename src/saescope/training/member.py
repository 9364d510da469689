"""One coder in training: weights, optimiser, firing record, and the columns of the batch that concern it."""

from __future__ import annotations

import itertools

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.coders import Normalization, Slice, SparseCoder, fold, make_architecture
from saescope.errors import UsageError
from saescope.lm import exact_float
from saescope.training.config import CoderConfig, TrainConfig
from saescope.training.defaults import dead_horizon, peak_lr
from saescope.training.firing import FiringRecord
from saescope.training.initialise import initialise, warm_start
from saescope.training.objective import AuxTerm, Loss, objective
from saescope.training.optimiser import CoderOptimiser, schedule
from saescope.training.resample import resample

Moments = dict[str, tuple[Float[Tensor, "d"], float]]


class Member:
    """A coder of a run. `columns` maps each hook point to its columns in the batch."""

    def __init__(
        self,
        config: CoderConfig,
        run: TrainConfig,
        columns: dict[str, slice],
        moments: Moments,
        n_steps: int,
        device: torch.device,
        selection: torch.dtype,
    ) -> None:
        self.config, self.run, self.n_steps, self.selection = config, run, n_steps, selection
        reads = tuple(Slice(point=point, width=_width(columns[point])) for point in config.reads)
        writes = tuple(Slice(point=point, width=_width(columns[point])) for point in config.writes_to)
        self.read_norm, self.write_norm = Normalization.of(reads, moments), Normalization.of(writes, moments)
        architecture = make_architecture(config.arch, config.d_sae, config.options)
        self.coder = SparseCoder(architecture, reads, writes, skip=config.skip, device=device)
        initialise(self.coder, config.seed)
        self.coder.W_dec.requires_grad_(not config.frozen_decoder)
        self._warm = config.init is not None and warm_start(self.coder, config.init, self.read_norm, self.write_norm)
        self.read_norm, self.write_norm = (_on(norm, device) for norm in (self.read_norm, self.write_norm))
        self._read_columns = _columns(columns, config.reads, device)
        self._write_columns = _columns(columns, config.writes_to, device)
        rate = config.lr or peak_lr(config.d_sae, n_steps)
        self.optimiser = CoderOptimiser(self.coder, rate, betas=run.betas, eps=run.eps, clip=run.clip, tied=run.tied)
        self.firing = FiringRecord(config.d_sae, device)
        self._resample_at = {max(1, round(part * n_steps)) for part in config.resample}
        self.dead_horizon = dead_horizon(run.dead_after, n_steps, run.batch_size)
        if any(step * run.batch_size < self.dead_horizon for step in self._resample_at):
            raise UsageError(
                f"coder {config.name!r}: resample {list(config.resample)}: nothing is dead before {self.dead_horizon:,} tokens "
                f"of {n_steps * run.batch_size:,} (dead_after {run.dead_after:g}); name later parts of the run"
            )

    @property
    def name(self) -> str:
        return self.config.name

    def inputs(self, batch: Float[Tensor, "tokens d_total"]) -> tuple[Tensor, Tensor]:
        """This coder's normalised input and target, float32."""
        x = self.read_norm.apply_(_take(batch, self._read_columns).to(torch.float32, copy=True))
        if self.coder.reads == self.coder.writes:
            return x, x
        return x, self.write_norm.apply_(_take(batch, self._write_columns).to(torch.float32, copy=True))

    def step(self, batch: Float[Tensor, "tokens d_total"], step: int) -> tuple[Loss, Float[Tensor, ""]]:
        """One optimiser step. Returns the loss and the gradient norm before clipping."""
        x, y = self.inputs(batch)
        loss = objective(self.coder, x, y, selection=self.selection, aux=self._aux(x.shape[0], step))
        loss.backward()
        norm = self.optimiser.step(schedule(step, self.n_steps, self.run.warmup, self.run.decay))
        self.firing.update(loss.done.codes)
        if step + 1 in self._resample_at:
            dead = self.firing.dead(self.dead_horizon)
            seed = self.config.seed * self.n_steps + step
            self.firing.restarted(resample(self.coder, self.optimiser, x, y, dead, seed=seed))
        self.coder.architecture.after_step(self.coder, loss.done, step, self.n_steps)
        return loss, norm

    def prepare(self, batch: Float[Tensor, "tokens d_total"]) -> None:
        """Let the first batch set what the architecture takes from data before the first step."""
        x, _ = self.inputs(batch)
        self.coder.architecture.prepare(self.coder, x, warm=self._warm)

    def _aux(self, n_tokens: int, step: int) -> AuxTerm:
        k = self.run.aux_k or max(1, self.coder.d_in // 2)
        tokens = max(1, round(self.run.aux_share * n_tokens))
        return AuxTerm(self.firing.dead_list(self.dead_horizon, step), k, tokens, self.run.aux_coefficient)

    @torch.no_grad()
    def held_out(self, batch: Float[Tensor, "tokens d_total"], step_tokens: int = 4096) -> dict[str, float]:
        """Inference-time loss, L0 and FVU (centred, on normalised activations) of held-out rows."""
        error, spread, active, count = 0.0, 0.0, 0, 0
        exact = exact_float(batch.device)
        _, all_y = self.inputs(batch)
        mean = all_y.mean(0)
        for start in range(0, batch.shape[0], step_tokens):
            x, y = self.inputs(batch[start : start + step_tokens])
            codes = self.coder.encode(x)
            error += float((y - self.coder.decode(codes, x)).to(exact).pow(2).sum())
            spread += float((y - mean).to(exact).pow(2).sum())
            active += codes.nnz
            count += x.shape[0]
        return {
            "held_out_loss": error / (count * self.coder.d_out),
            "held_out_fvu_centered": error / max(spread, 1e-30),
            "held_out_l0": active / count,
        }

    @torch.no_grad()
    def finished(
        self,
        calibration: Float[Tensor, "rows d_total"],
        sample: Float[Tensor, "rows d_total"],
        held_out: Float[Tensor, "rows d_total"] | None,
    ) -> SparseCoder:
        """The coder for use, on raw activations: L0 settled on `calibration` rows, values refitted on a `sample` of training
        rows, measured on `held_out` rows, then folded."""
        architecture, size = self.coder.architecture, self.run.batch_size
        architecture.calibrate(self.coder, [self.inputs(batch)[0] for batch in calibration.split(size)])
        architecture.refit(self.coder, [self.inputs(batch) for batch in sample.split(size)])
        settled = {} if held_out is None else self.held_out(held_out)
        coder = fold(self.coder.cpu(), _on(self.read_norm, "cpu"), _on(self.write_norm, "cpu"))
        coder.metadata.name = self.name
        coder.metadata.training = {"settled": settled}
        return coder.eval().requires_grad_(False)

    def state(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, by name."""
        tensors = {f"coder.{name}": value for name, value in self.coder.state_dict().items()}
        tensors |= {f"adam.{name}": value for name, value in self.optimiser.state().items()}
        return tensors | {f"firing.{name}": value for name, value in self.firing.state().items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.coder.load_state_dict(part("coder."))
        self.optimiser.load_state(part("adam."))
        self.firing.load_state(part("firing."))


def _width(columns: slice) -> int:
    return int(columns.stop - columns.start)


def _on(norm: Normalization, device: torch.device | str) -> Normalization:
    return Normalization(norm.mean.to(device), norm.scale.to(device))


def _columns(columns: dict[str, slice], points: tuple[str, ...], device: torch.device) -> slice | Int[Tensor, "d"]:
    """One slice where the points lie side by side in the batch, else the list of columns."""
    parts = [columns[point] for point in points]
    if all(left.stop == right.start for left, right in itertools.pairwise(parts)):
        return slice(parts[0].start, parts[-1].stop)
    return torch.cat([torch.arange(part.start, part.stop, device=device) for part in parts])


def _take(batch: Tensor, columns: slice | Tensor) -> Tensor:
    return batch[:, columns] if isinstance(columns, slice) else batch.index_select(1, columns)
