"""Logistic regression with an L2 penalty, for several penalties at once.

    min_{w, b}  C · Σ_i c_i log(1 + exp(-y_i (w·x_i + b))) + ‖w‖² / 2

with y = ±1 and c_i such that both labels weigh the same: scikit-learn's `LogisticRegression(class_weight="balanced")`. A few
features are fitted here by Newton's method, since hundreds of small fits would spend their time in scikit-learn's checks of
their input; many features by scikit-learn.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float

# Features up to which a Newton step, which solves a system of that size, is the faster way.
_FEW = 64
_MAX_STEPS = 60
_MAX_ITERATIONS = 300
# Of the gradient, relative to the sum of C·c: far below what a label's side of the threshold could depend on.
_TOLERANCE = 1e-9


def fit_logistic(
    x: Float[np.ndarray, "n d"], label: Bool[np.ndarray, "n"], Cs: Sequence[float]
) -> tuple[Float[np.ndarray, "Cs d"], Float[np.ndarray, "Cs"]]:
    """Weights and biases, one row for each C. Both labels must be there."""
    if x.shape[1] <= _FEW:
        return _newton(x, label, np.asarray(Cs, dtype=np.float64))
    # Here, since it would make every measurement, probing or not, start more than half a second later.
    import sklearn
    from sklearn.linear_model import LogisticRegression

    weights, biases = [], []
    for C in Cs:
        regression = LogisticRegression(C=C, class_weight="balanced", max_iter=_MAX_ITERATIONS)
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            regression.fit(x, label)
        weights.append(regression.coef_[0])
        biases.append(regression.intercept_[0])
    return np.stack(weights), np.array(biases)


def _newton(
    x: Float[np.ndarray, "n d"], label: Bool[np.ndarray, "n"], Cs: Float[np.ndarray, "Cs"]
) -> tuple[Float[np.ndarray, "Cs d"], Float[np.ndarray, "Cs"]]:
    """Damped Newton steps on all problems together, until the gradient of each is zero to rounding."""
    n, d = x.shape
    with_one = np.concatenate([x, np.ones((n, 1))], axis=1)
    sign = np.where(label, 1.0, -1.0)
    cost = Cs[:, None] * np.where(label, n / (2 * label.sum()), n / (2 * (~label).sum()))
    penalty = np.r_[np.ones(d), 0.0]

    def loss(beta: Float[np.ndarray, "Cs d_plus_one"]) -> Float[np.ndarray, "Cs"]:
        data = (cost * np.logaddexp(0, -sign * (beta @ with_one.T))).sum(1)
        found: np.ndarray = data + (penalty * beta**2).sum(1) / 2
        return found

    beta = np.zeros((len(Cs), d + 1))
    now = loss(beta)
    for _ in range(_MAX_STEPS):
        chance = 0.5 * (1 + np.tanh(0.5 * (beta @ with_one.T)))
        gradient = (cost * (chance - label)) @ with_one + penalty * beta
        if (np.abs(gradient).max(1) <= _TOLERANCE * cost.sum(1)).all():
            break
        curvature = cost * chance * (1 - chance)
        hessian = (with_one.T * curvature[:, None, :]) @ with_one + np.diag(penalty + 1e-12)
        step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
        slope = (gradient * step).sum(1)
        length = np.ones(len(Cs))
        for _ in range(30):
            after = loss(beta - length[:, None] * step)
            too_long = after > now - 1e-4 * length * slope + 1e-12 * np.abs(now)
            if not too_long.any():
                break
            length[too_long] /= 2
        beta = beta - length[:, None] * step
        now = loss(beta)
    return beta[:, :d], beta[:, d]
