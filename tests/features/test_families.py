"""Families and splits planted in lists of partners."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saescope.features.families import LEAST_TIE, MOST_MEMBERS, families, latent_levels, splits

Lists = tuple[NDArray[np.int32], NDArray[np.float32]]


def lists(n: int, ties: dict[tuple[int, int], float], k: int = 16, *, both: bool = True) -> Lists:
    """Each feature's strongest partners, as an index has them."""
    partner, strength = np.full((n, k), -1, np.int32), np.zeros((n, k), np.float32)
    own: dict[int, list[tuple[float, int]]] = {}
    for (a, b), s in ties.items():
        own.setdefault(a, []).append((-s, b))
        if both:
            own.setdefault(b, []).append((-s, a))
    for a, partners in own.items():
        for rank, (s, b) in enumerate(sorted(partners)[:k]):
            partner[a, rank], strength[a, rank] = b, -s
    return partner, strength


def nothing(n: int) -> Lists:
    return lists(n, {}, 10)


def groups_of(family: NDArray[np.int32]) -> list[set[int]]:
    return [set(np.flatnonzero(family == number).tolist()) for number in range(int(family.max(initial=-1)) + 1)]


def test_planted_families_are_found_whichever_way_they_are_tied() -> None:
    firing = {(a, b): 0.6 for a in (1, 5, 9) for b in (1, 5, 9) if a < b}
    writing = {(a, b): 0.5 for a in (2, 3, 11, 12) for b in (2, 3, 11, 12) if a < b}
    noise = {(0, 4): 0.2, (1, 2): 0.22, (7, 8): 0.31}
    family = families(*lists(14, firing | noise), *lists(14, writing, 10, both=False))
    # Numbered by their lowest members.
    assert groups_of(family) == [{1, 5, 9}, {2, 3, 11, 12}, {7, 8}]
    assert family[[0, 4, 6, 13]].tolist() == [-1] * 4


def test_a_chain_is_no_family() -> None:
    """Each tied to the next only: joined by their strongest link, all of them would be one."""
    chain = {(i, i + 1): 0.5 for i in range(39)}
    found = groups_of(families(*lists(40, chain), *nothing(40)))
    assert max(map(len, found)) <= 3
    assert sum(map(len, found)) > 20


def test_two_families_with_a_bridge_stay_two() -> None:
    ties = {(a, b): 0.7 for group in (range(6), range(6, 12)) for a in group for b in group if a < b}
    assert groups_of(families(*lists(12, ties | {(5, 6): 0.9}), *nothing(12))) != [set(range(12))]
    assert groups_of(families(*lists(12, ties | {(5, 6): 0.65}), *nothing(12))) == [set(range(6)), set(range(6, 12))]


def test_size_is_bounded_and_every_member_is_tied() -> None:
    n = 200
    everyone = {(a, b): 0.9 for a in range(n) for b in range(a + 1, n)}
    family = families(*lists(n, everyone, n), *nothing(n))
    sizes = [len(group) for group in groups_of(family)]
    assert max(sizes) == MOST_MEMBERS
    assert sum(sizes) == n


def test_mean_tie_within_random_families_is_at_least_the_least() -> None:
    random = np.random.default_rng(0)
    ties = {
        (int(a), int(b)): float(s)
        for a, b, s in zip(*random.integers(0, 120, (2, 900)), random.uniform(0, 1, 900), strict=True)
        if a < b
    }
    family = families(*lists(120, ties, 120), *nothing(120))
    assert (family >= 0).sum() > 20
    for group in groups_of(family):
        pairs = [(a, b) for a in group for b in group if a < b]
        strong = [tie if (tie := ties.get(pair, 0.0)) >= LEAST_TIE else 0.0 for pair in pairs]
        # Average linkage bounds the mean between the two halves at every joining, hence over all pairs.
        assert np.mean(strong) >= LEAST_TIE - 1e-9


def test_same_families_every_time_whatever_the_lists_order() -> None:
    random = np.random.default_rng(1)
    ties = {(int(a), int(b)): 0.5 for a, b in random.integers(0, 60, (150, 2)) if a < b}
    one = families(*lists(60, ties), *nothing(60))
    partner, strength = lists(60, ties)
    flipped = families(partner[:, ::-1], strength[:, ::-1], *nothing(60))
    assert np.array_equal(one, flipped)


def test_no_ties_no_families() -> None:
    assert families(*nothing(5), *nothing(5)).tolist() == [-1] * 5


def test_levels_of_latents() -> None:
    assert latent_levels([2, 3, 6], 6).tolist() == [0, 0, 1, 2, 2, 2]
    assert latent_levels([], 3).tolist() == [0, 0, 0]


def test_a_coarse_feature_splits_into_those_that_fire_within_it() -> None:
    """Feature 0 is coarse; 3 and 4 fire within it and write alike, 5 fires elsewhere, 6 fires within it but writes otherwise;
    feature 1 is coarse and fires nearly always."""
    level = latent_levels([2, 7], 7)
    count = np.array([1000, 9000, 500, 200, 100, 300, 100])
    together = {(0, 3): 180, (0, 4): 90, (0, 5): 30, (0, 6): 95, (1, 3): 190, (1, 4): 95, (3, 4): 80, (0, 1): 900}
    partner, times = lists(7, {pair: float(n) for pair, n in together.items()})
    row = torch.eye(7)[0]
    W_dec = torch.stack([row, *torch.eye(7)[1:3], row + torch.eye(7)[3], row + torch.eye(7)[4], row, torch.eye(7)[6]])
    W_dec[1] = row
    found = splits(level, partner, times, count, 10_000, W_dec)
    assert found.into(0) == [(3, pytest.approx(0.9)), (4, pytest.approx(0.9))]
    assert found.into(1) == []
    assert found.of(4) == [(0, pytest.approx(0.9))]
    assert found.of(3) == [(0, pytest.approx(0.9))]
    assert found.cosine.tolist() == pytest.approx([0.5**0.5] * 2)
    # Of one level, nothing splits.
    assert splits(latent_levels([], 7), partner, times, count, 10_000, W_dec).coarse.size == 0


def test_a_pair_counts_when_only_one_of_the_lists_has_it() -> None:
    level = latent_levels([1, 2], 2)
    W_dec = torch.ones(2, 3)
    for here, there in ((0, 1), (1, 0)):
        partner, times = np.full((2, 4), -1, np.int32), np.zeros((2, 4), np.int32)
        partner[here, 0], times[here, 0] = there, 40
        found = splits(level, partner, times, np.array([100, 50]), 10_000, W_dec)
        assert found.into(0) == [(1, pytest.approx(0.8))]
