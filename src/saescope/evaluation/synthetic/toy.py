"""The toy model of superposition (Elhage et al., 2022): n sparse features squeezed through d dimensions.

    h = Σ_i a_i W_i        â = relu(h · Wᵀ + b)        loss = mean over rows of Σ_i I_i (a_i - â_i)²

a_i is uniform on [0, 1) with probability p_i (the feature's rate), else 0; I_i is its importance. With sparse features the
trained W holds more of them than it has dimensions, in directions of the model's own choosing. Its hidden activations h are
the data, the rows of W the true directions (W is [n, d] here: Elhage's columns).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from saescope.errors import UsageError
from saescope.evaluation.seeding import TOY, seeded
from saescope.evaluation.synthetic.config import SyntheticConfig
from saescope.evaluation.synthetic.hierarchy import wanted_rates

# A feature shorter than this is one that the model gave up.
_REPRESENTED = 0.1


def toy_directions(config: SyntheticConfig) -> tuple[Float[Tensor, "represented d"], Float[Tensor, "represented"]]:
    """Unit directions and lengths of the features that the trained model represents (longer than 0.1), in order of rank.

    UsageError where there are none. Takes seconds; the same configuration gives the same model.
    """
    assert config.toy is not None
    toy, n = config.toy, config.n_features
    generator = seeded(TOY, config.seed)
    rates = wanted_rates(config.rates, n).float()
    importance = toy.importance_decay ** torch.arange(n, dtype=torch.float32)
    W = (torch.randn(n, config.d_in, generator=generator) / config.d_in**0.5).requires_grad_()
    b = torch.zeros(n, requires_grad=True)
    optimiser = torch.optim.Adam([W, b], lr=toy.lr)
    for step in range(toy.steps):
        optimiser.param_groups[0]["lr"] = toy.lr * (1 - step / toy.steps)
        shape = (toy.batch_size, n)
        fires = torch.rand(shape, generator=generator) < rates
        a = fires * 2 * config.magnitude.mean * torch.rand(shape, generator=generator)
        loss = (importance * (a - ((a @ W) @ W.T + b).relu()).square()).sum() / toy.batch_size
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    length = W.detach().double().norm(dim=1)
    kept = length > _REPRESENTED
    if not bool(kept.any()):
        raise UsageError(f"the toy model represents none of its {n} features; train it longer or raise the rates")
    return W.detach().double()[kept] / length[kept, None], length[kept]
