"""What later measurements need of the training activations: means for ablation, principal components for the PCA control."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

# Components beyond this are of no use as a control: it stands at the coder's L0.
MAX_COMPONENTS = 256


def principal_components(
    rows: Float[Tensor, "tokens d"], mean: Float[Tensor, "d"], most: int = MAX_COMPONENTS
) -> Float[Tensor, "m d"]:
    """Orthonormal directions of largest variance about `mean`, descending; m = min(most, d)."""
    centred = rows.double() - mean.to(rows.device, torch.float64)
    covariance = centred.T @ centred / max(1, rows.shape[0])
    vectors: Tensor = torch.linalg.eigh(covariance)[1]
    return vectors.T.flip(0)[:most].float().contiguous()


def reference_tensors(
    rows: Float[Tensor, "tokens d_total"],
    columns: dict[str, slice],
    means: dict[str, Float[Tensor, "d"]],
) -> dict[str, Tensor]:
    """`mean.POINT` [d] over all training rows and `components.POINT` [m, d] of the sampled `rows`, per hook point."""
    tensors: dict[str, Tensor] = {}
    for point, place in columns.items():
        tensors[f"mean.{point}"] = means[point].float()
        tensors[f"components.{point}"] = principal_components(rows[:, place], means[point])
    return tensors
