"""One coder's parameter update: clip, keep decoder rows on the unit sphere, Adam, learning-rate schedule."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from saescope.coders import SparseCoder
from saescope.kernels import AdamStep, Trained, active, recycling


def schedule(step: int, n_steps: int, warmup: float, decay: float) -> float:
    """Share of the peak learning rate at `step` of `n_steps`: linear rise over `warmup`, linear fall over `decay`."""
    rise = max(1, round(warmup * n_steps)) if warmup > 0 else 0
    fall = round(decay * n_steps)
    up = (step + 1) / rise if step < rise else 1.0
    left = n_steps - step
    down = left / (fall + 1) if left <= fall else 1.0
    return min(up, down)


class CoderOptimiser:
    """Adam on a coder whose decoder rows stay unit vectors, its gradient clipped to norm `clip`.

    The part of a row's gradient along the row would only change its length, which renormalising undoes, but it would
    still enter Adam's moments; it is projected out first.

    What Adam moves of an autoencoder's encoder is V in W_enc_rows = tied · W_dec + V: an encoder row follows its decoder row
    by itself, and the decoder's gradient gets `tied` times the encoder's by the chain rule. What can be represented is the
    same as with both apart. A coder that writes elsewhere than it reads has them apart: its rows are of different spaces.
    """

    def __init__(
        self, coder: SparseCoder, lr: float, *, betas: tuple[float, float], eps: float, clip: float, tied: float = 0.0
    ) -> None:
        self.coder, self.lr, self.betas, self.eps, self.clip = coder, lr, betas, eps, clip
        self.tied = tied if coder.reads == coder.writes and coder.W_dec.requires_grad else 0.0
        self.share = 0.0
        self.steps = 0
        self.moments = {
            name: (torch.zeros_like(parameter), torch.zeros_like(parameter))
            for name, parameter in coder.named_parameters()
        }

    @torch.no_grad()
    def step(self, share: float) -> Tensor:
        """Apply the gradients at `share` of the peak learning rate, clear them, and return their norm before clipping."""
        kernels = active(self.coder.device)
        self.share, self.steps = share, self.steps + 1
        if self.tied and (own := self.coder.W_enc_rows.grad) is not None and self.coder.W_dec.grad is not None:
            self.coder.W_dec.grad.add_(own, alpha=self.tied)
        graded = [(name, p, p.grad) for name, p in self.coder.named_parameters() if p.grad is not None]
        parts = [kernels.tangent(_rows(p), _rows(grad), p is self.coder.W_dec) for _, p, grad in graded]
        norm = torch.stack([square for _, square in parts]).sum().sqrt()
        scale = (self.clip / (norm + 1e-6)).clamp(max=1.0)
        fast = self.coder.architecture.fast
        beta1, beta2 = self.betas
        for (name, p, grad), (along, _) in zip(graded, parts, strict=True):
            rate = self.lr * share * fast.get(name, 1.0)
            adam = AdamStep(rate, beta1, beta2, 1 - beta1**self.steps, 1 - beta2**self.steps, self.eps)
            mean, square = self.moments[name]
            trained = Trained(_rows(p), _rows(grad), _rows(mean), _rows(square))
            if self.tied and p is self.coder.W_dec:
                # Adam's own step on the encoder is a difference too, so which of the two comes first makes none.
                trained = replace(trained, follower=self.coder.W_enc_rows.detach(), share=self.tied)
            kernels.adam(trained, along, scale, adam)
            p.grad = None
            recycling.give(grad)
        return norm

    @property
    def rate(self) -> float:
        """The learning rate of the last step."""
        return self.lr * self.share

    @torch.no_grad()
    def forget(self, latents: Int[Tensor, "n"]) -> None:
        """Clear the moments of some latents' weights."""
        for name, moments in self.moments.items():
            if moments[0].shape[0] == self.coder.d_sae and name not in ("b_dec", "W_skip"):
                for moment in moments:
                    moment[latents] = 0

    def state(self) -> dict[str, Tensor]:
        """Adam's moments by parameter name, and the number of steps taken."""
        tensors = {"steps": torch.tensor(self.steps)}
        for name, (mean, square) in self.moments.items():
            tensors |= {f"{name}.mean": mean, f"{name}.square": square}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.steps = int(tensors["steps"])
        for name, (mean, square) in self.moments.items():
            mean.copy_(tensors[f"{name}.mean"])
            square.copy_(tensors[f"{name}.square"])


def _rows(tensor: Tensor) -> Float[Tensor, "rows d"]:
    return tensor.detach() if tensor.ndim == 2 else tensor.detach().view(1, -1)
