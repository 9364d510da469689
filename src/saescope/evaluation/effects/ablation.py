"""Targeted effects: what ablating the latents attributed to a class does to its probe, and to the others' probes.

    attribution of latent i to class c     (mean of f_i over c's training examples - over the others') · (W_dec_i · w_c)
    ablation of a set S                    x' = x - Σ_{i in S} f_i W_dec_i     (the rest of x, error included, stays)
    drop of probe j                        its balanced accuracy on the held-out examples before - after
    targeted effect                        mean over c of (drop of c's probe - mean drop of the others')

S is the n latents with the largest attribution to c, of those with a positive one. As targeted probe perturbation in
SAEBench (Karvonen et al., 2025). Examples are means over their tokens; a probe is linear, so ablating every token and
taking the mean is ablating the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import sparse
from torch import Tensor

from saescope.evaluation.code_matrix import dense_columns, firing, shuffled_rows
from saescope.evaluation.effects.class_set import ClassSet
from saescope.evaluation.linear_probe import LinearProbes, fit_probes

COUNTS = (2, 5, 10, 20, 50)
LEAST_ACCURACY = 0.75
# Random latents are drawn among so many with the nearest firing rate.
NEIGHBOURS = 20


@dataclass(frozen=True)
class ProbedSet:
    """A class set with its probes: their scores and weights on held-out examples.

    share [test, classes]: what each example counts in a probe's balanced accuracy. accuracy [classes]. usable: the
    classes whose probe has a balanced accuracy of .75 or more.
    """

    classes: ClassSet
    probes: LinearProbes
    scores: Float[Tensor, "test classes"]
    member: Bool[Tensor, "test classes"]
    share: Float[Tensor, "test classes"]
    accuracy: Float[Tensor, "classes"]
    usable: tuple[int, ...]

    @staticmethod
    def of(classes: ClassSet, probes: LinearProbes | None = None) -> ProbedSet:
        """With these probes, or ones fitted on the training examples."""
        test, member = classes.test, classes.member
        pooled = torch.from_numpy(classes.averaging @ classes.x.numpy())
        probes = probes or fit_probes(pooled[~test], member[~test])
        scores, held_out = probes.scores(pooled[test]), member[test]
        size = held_out.double().sum(0)
        share = torch.where(held_out, 0.5 / size, 0.5 / (held_out.shape[0] - size))
        accuracy = (share * ((scores > 0) == held_out)).sum(0)
        usable = tuple((accuracy >= LEAST_ACCURACY).nonzero()[:, 0].tolist())
        return ProbedSet(classes, probes, scores, held_out, share, accuracy, usable)


@dataclass(frozen=True)
class Latents:
    """A coder's latents on a class set: activations [test, d_sae], on the training examples each class's mean activations
    above the other classes' and its firing rates [classes, d_sae], and what each latent adds to each probe [d_sae, classes]."""

    held_out: sparse.csc_matrix
    difference: Float[np.ndarray, "classes d_sae"]
    rate: Float[np.ndarray, "classes d_sae"]
    onto: Float[Tensor, "d_sae classes"]

    @staticmethod
    def of(codes: sparse.csr_matrix, W_dec: Float[Tensor, "d_sae d"], probed: ProbedSet) -> Latents:
        classes = probed.classes
        averaging = classes.averaging
        values, fires = averaging @ codes, averaging @ firing(codes)
        train = ~classes.test
        member = classes.member[train].double().numpy()
        inside = (values[train.numpy()].T @ member).T
        size = member.sum(0)[:, None]
        mean = inside / size
        others = (inside.sum(0) - inside) / (member.shape[0] - size)
        onto = W_dec @ probed.probes.weight
        rate = (fires[train.numpy()].T @ member).T / size
        return Latents(values[classes.test.numpy()].tocsc(), mean - others, rate, onto)

    def with_shuffled_decoder(self, seed: int) -> Latents:
        """The same activations, each latent with another's decoder row."""
        return replace(self, onto=shuffled_rows(self.onto, seed))

    def attributed(self, label: int, count: int) -> list[int]:
        """The latents most attributed to a class; fewer than `count` where fewer have a positive attribution."""
        attribution = self.difference[label] * self.onto[:, label].double().numpy()
        top = np.argsort(-attribution, kind="stable")[:count]
        return [int(latent) for latent in top if attribution[latent] > 0]

    def matched(self, label: int, chosen: Sequence[int], generator: np.random.Generator) -> list[int]:
        """As many other latents, each drawn among those that fire about as often on the class as one of `chosen`."""
        rate = self.rate[label]
        free = np.ones(rate.size, dtype=bool)
        free[list(chosen)] = False
        drawn = []
        for latent in chosen:
            left = free.nonzero()[0]
            if not left.size:
                break
            distance = np.abs(rate[left] - rate[latent])
            nearest = left[np.argpartition(distance, min(NEIGHBOURS, left.size) - 1)[:NEIGHBOURS]]
            drawn.append(int(generator.choice(nearest)))
            free[drawn[-1]] = False
        return drawn


@dataclass(frozen=True)
class Effect:
    """What ablating n latents a class did. own, others [usable]: drop of the class's probe, mean drop of the others'.
    by_example [test]: contributions, which sum to the targeted effect."""

    own: Float[Tensor, "usable"]
    others: Float[Tensor, "usable"]
    by_example: Float[Tensor, "test"]

    @property
    def targeted(self) -> float:
        return float(self.by_example.sum())


def effect_of(latents: Latents, chosen: Sequence[Sequence[int]], probed: ProbedSet) -> Effect:
    """Of ablating `chosen[place]` for the class `probed.usable[place]`."""
    usable = list(probed.usable)
    member, share, before = probed.member[:, usable], probed.share[:, usable], probed.scores[:, usable]
    right = (before > 0) == member
    n = len(usable)
    own, others = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)
    by_example = torch.zeros(before.shape[0], dtype=torch.float64)
    for place, group in enumerate(chosen):
        if not group:
            continue
        columns = list(group)
        removed = dense_columns(latents.held_out, columns).float() @ latents.onto[columns][:, usable]
        still = ((before - removed) > 0) == member
        drop = share * (right.double() - still.double())
        elsewhere = (drop.sum(1) - drop[:, place]) / (n - 1)
        own[place], others[place] = drop[:, place].sum(), elsewhere.sum()
        by_example += (drop[:, place] - elsewhere) / n
    return Effect(own, others, by_example)
