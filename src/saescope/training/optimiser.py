"""One coder's parameter update: clip, keep decoder rows on the unit sphere, Adam, learning-rate schedule."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from saescope.coders import SparseCoder


def schedule(step: int, n_steps: int, warmup: float, decay: float) -> float:
    """Share of the peak learning rate at `step` of `n_steps`: linear rise over `warmup`, linear fall over `decay`."""
    rise = max(1, round(warmup * n_steps)) if warmup > 0 else 0
    fall = round(decay * n_steps)
    up = (step + 1) / rise if step < rise else 1.0
    left = n_steps - step
    down = left / (fall + 1) if left <= fall else 1.0
    return min(up, down)


class CoderOptimiser:
    """Adam on a coder whose decoder rows stay unit vectors.

    The part of a row's gradient along the row would only change its length, which renormalising undoes, but it would
    still enter Adam's moments; it is projected out first.
    """

    def __init__(self, coder: SparseCoder, lr: float, *, betas: tuple[float, float], eps: float, clip: float) -> None:
        self.coder, self.lr, self.clip = coder, lr, clip
        fused = coder.device.type in ("cpu", "cuda")
        self.adam = torch.optim.Adam(_groups(coder), lr=lr, betas=betas, eps=eps, fused=fused)

    def step(self, share: float) -> Tensor:
        """Apply the gradients at `share` of the peak learning rate, clear them, and return their norm before clipping."""
        decoder = self.coder.W_dec
        if decoder.grad is not None:
            along = (decoder.grad * decoder.detach()).sum(1, keepdim=True)
            decoder.grad.addcmul_(along, decoder.detach(), value=-1)
        norm = torch.nn.utils.clip_grad_norm_(self.coder.parameters(), self.clip)
        for group in self.adam.param_groups:
            group["lr"] = self.lr * share * group["times"]
        self.adam.step()
        self.adam.zero_grad(set_to_none=True)
        normalise_rows(decoder)
        return norm

    @torch.no_grad()
    def forget(self, latents: Int[Tensor, "n"]) -> None:
        """Clear the moments of some latents' weights."""
        for name, parameter in self.coder.named_parameters():
            if parameter.shape[0] == self.coder.d_sae and name not in ("b_dec", "W_skip"):
                for moment in self.adam.state.get(parameter, {}).values():
                    if moment.ndim:
                        moment[latents] = 0

    def state(self) -> dict[str, Tensor]:
        """Adam's moments and step counts by parameter name."""
        tensors = {}
        for name, parameter in self.coder.named_parameters():
            for key, value in self.adam.state.get(parameter, {}).items():
                tensors[f"{name}.{key}"] = value
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for name, parameter in self.coder.named_parameters():
            found = {
                key.removeprefix(f"{name}."): value.to(parameter.device if value.ndim else "cpu").clone()
                for key, value in tensors.items()
                if key.startswith(f"{name}.")
            }
            if found:
                self.adam.state[parameter] = found


def _groups(coder: SparseCoder) -> list[dict[str, Any]]:
    """Parameters by how many times the peak learning rate they take."""
    fast = coder.architecture.fast
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in coder.named_parameters():
        groups.setdefault(fast.get(name, 1.0), []).append(parameter)
    return [{"params": parameters, "times": times} for times, parameters in groups.items()]


@torch.no_grad()
def normalise_rows(weight: Tensor) -> None:
    """Scale every row to length one, in place."""
    weight.div_(weight.norm(dim=1, keepdim=True).clamp_(min=1e-8))
