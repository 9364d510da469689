"""Linear probes: one logistic regression a class, against all other classes.

    loss_c = Σ_i v_ci · log(1 + exp(-y_ci · (x_i · w_c + b_c))) + λ‖s·w_c‖²,   y_ci = ±1

v weighs both sides of a class equally, so a class of a twentieth of the examples is not ignored. s is one number, the
standard deviation over all dimensions: a scale of its own for each dimension would turn the direction w_c towards
dimensions that hardly vary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_PENALTY = 1e-3
_ITERATIONS = 100
# Of the probes on a few features, whose inputs have unit variance.
_SPARSE_PENALTY = 1e-3
_NEWTON_STEPS = 20


@dataclass(frozen=True)
class LinearProbes:
    """One direction and one threshold a class: class c is seen where x · weight[:, c] > threshold[c]."""

    weight: Float[Tensor, "d classes"]
    threshold: Float[Tensor, "classes"]

    @property
    def unit(self) -> Float[Tensor, "d classes"]:
        """The directions as unit vectors."""
        length: Tensor = self.weight.norm(dim=0)
        return self.weight / length.clamp(min=1e-30)

    def scores(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n classes"]:
        """How far each example is beyond each threshold."""
        return x @ self.weight - self.threshold

    def with_best_f1(self, x: Float[Tensor, "n d"], member: Bool[Tensor, "n classes"]) -> LinearProbes:
        """The same directions, with the thresholds that give the best F1 on these examples."""
        projected = x @ self.weight
        best = [best_threshold(projected[:, c], member[:, c])[0] for c in range(member.shape[1])]
        return LinearProbes(self.weight, torch.tensor(best, dtype=self.weight.dtype))


def fit_probes(
    x: Float[Tensor, "n d"], member: Bool[Tensor, "n classes"], *, penalty: float = _PENALTY
) -> LinearProbes:
    """Logistic regressions of each class against the rest; every class needs a member and a non-member."""
    mean = x.mean(0)
    scale = (x - mean).square().mean().sqrt().clamp(min=1e-30)
    z = (x - mean) / scale
    sign, weigh = _balanced(member)
    weight = torch.zeros(x.shape[1], member.shape[1], requires_grad=True)
    bias = torch.zeros(member.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        missed = torch.nn.functional.softplus(-sign * (z @ weight + bias))
        value = (weigh * missed).sum() + penalty * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimiser.step(loss)
    raw = weight.detach() / scale
    return LinearProbes(raw, mean @ raw - bias.detach())


def sparse_scores(
    features: Float[Tensor, "candidates n k"], member: Bool[Tensor, "n"]
) -> tuple[Float[Tensor, "candidates k"], Float[Tensor, "candidates n"]]:
    """Weights and scores of a logistic regression on k features, for several choices of features at once, by Newton's method.

    The bias is left out of the scores: their thresholds are chosen by F1.
    """
    z = features.double()
    mean = z.mean(1, keepdim=True)
    scale = (z - mean).square().mean(1, keepdim=True).sqrt().clamp(min=1e-30)
    z = (z - mean) / scale
    z = torch.cat([z, torch.ones_like(z[..., :1])], 2)
    sign, weigh = (part[:, 0].double() for part in _balanced(member[:, None]))
    penalty = torch.full((z.shape[2],), 2 * _SPARSE_PENALTY, dtype=z.dtype)
    penalty[-1] = 1e-9
    weight = z.new_zeros(z.shape[0], z.shape[2])
    for _ in range(_NEWTON_STEPS):
        miss = torch.sigmoid(-sign * torch.einsum("cnk,ck->cn", z, weight))
        gradient = penalty * weight - torch.einsum("cnk,cn->ck", z, weigh * sign * miss)
        curvature = torch.einsum("cnk,cn,cnl->ckl", z, weigh * miss * (1 - miss), z) + torch.diag(penalty)
        step = torch.linalg.solve(curvature, gradient)
        # A whole step from far away can overshoot where the classes separate.
        weight = weight - step / (step.abs().amax(1, keepdim=True) / 2).clamp(min=1)
        if float(step.abs().max()) < 1e-6:
            break
    raw = weight[:, :-1] / scale[:, 0]
    return raw.float(), torch.einsum("cnk,ck->cn", features.double(), raw).float()


def best_threshold(scores: Float[Tensor, "n"], member: Bool[Tensor, "n"]) -> tuple[float, float]:
    """The threshold half way between two neighbouring scores with the best F1 for "above it", and this F1."""
    ordered, order = scores.double().sort(descending=True, stable=True)
    hits = member[order].double().cumsum(0)
    seen = torch.arange(1, scores.numel() + 1, dtype=torch.float64)
    found = 2 * hits / (seen + member.sum())
    # A threshold cannot part equal scores.
    ends = torch.ones_like(found, dtype=torch.bool)
    ends[:-1] = ordered[:-1] > ordered[1:]
    found = torch.where(ends, found, -1.0)
    at = int(found.argmax())
    if at + 1 == scores.numel():
        # Everything is above: no better than no probe, but as good as it gets.
        return float(ordered[-1]) - 1.0, float(found[at])
    return float((ordered[at] + ordered[at + 1]) / 2), float(found[at])


def f1(
    predicted: Bool[Tensor, "n classes"], member: Bool[Tensor, "n classes"], weight: Float[Tensor, "draws n"]
) -> Float[Tensor, "draws classes"]:
    """2·hits / (predicted + members), each example counted `weight` times; 0 where nothing is either."""
    hits = weight @ (predicted & member).to(weight)
    either = weight @ (predicted.to(weight) + member.to(weight))
    return 2 * hits / either.clamp(min=1e-30)


def _balanced(member: Bool[Tensor, "n classes"]) -> tuple[Float[Tensor, "n classes"], Float[Tensor, "n classes"]]:
    """±1 for members and others, and weights by which each side of a class has half."""
    share = member.float().sum(0)
    weigh = torch.where(member, 0.5 / share, 0.5 / (member.shape[0] - share))
    return torch.where(member, 1.0, -1.0), weigh
