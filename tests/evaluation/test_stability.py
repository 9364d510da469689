"""Stability is one for the same coder, chance for unrelated ones, and counts what it says in between."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.evaluation.known import coder_with, random_units

from saescope.errors import CoderError, UsageError
from saescope.evaluation import Setting, Subject, stability
from saescope.evaluation.stability import measure

UNITS = random_units(60, 40, 0)


def share(*decoders: torch.Tensor, **options: object) -> dict:
    return stability([coder_with(W) for W in decoders], resamples=50, **options)


@settings(max_examples=20, deadline=None)
@given(st.permutations(range(60)), st.floats(0.01, 100))
def test_order_and_length_of_latents_do_not_matter(order: list[int], scale: float) -> None:
    found = share(UNITS, UNITS[order] * scale)
    assert found["share"] == 1.0
    assert found["mean_cosine"] == pytest.approx(1.0)
    assert found["intervals"]["share"] == [1.0, 1.0]
    # Each partner's place is one of sixty, so shuffled partners are found by luck alone.
    assert found["controls"]["shuffled"]["share"] < 0.2


def test_flipped_latents_are_others() -> None:
    assert share(UNITS, -UNITS)["share"] < 0.05
    some = UNITS.clone()
    some[:15] *= -1
    assert share(UNITS, some)["share"] == pytest.approx(0.75, abs=0.02)


def test_independent_coders_are_at_chance() -> None:
    found = share(UNITS, random_units(60, 40, 1), random_units(60, 40, 2))
    assert found["share"] == found["controls"]["random"]["share"] == 0.0
    assert found["mean_cosine"] == pytest.approx(found["controls"]["random"]["mean_cosine"], abs=0.02)
    assert found["mean_cosine"] > found["controls"]["shuffled"]["mean_cosine"] + 0.1


def test_share_counts_the_latents_in_common() -> None:
    """In wide space random latents never reach .7: what is shared is what is counted, and the interval holds it."""
    other = torch.cat([UNITS[:24], random_units(36, 40, 3)])[torch.randperm(60)]
    found = share(UNITS, other)
    assert found["share"] == pytest.approx(24 / 60)
    low, high = found["intervals"]["share"]
    assert low < 24 / 60 < high
    # A mean of 60 zeros and ones: the normal approximation gives the interval's width.
    assert high - low == pytest.approx(2 * 1.96 * (0.4 * 0.6 / 60) ** 0.5, rel=0.35)


@pytest.mark.parametrize(("cosine", "expected"), [(0.71, 1.0), (0.69, 0.0)])
def test_threshold_is_at_seven_tenths(cosine: float, expected: float) -> None:
    left = torch.eye(40)[:10]
    right = cosine * left + (1 - cosine**2) ** 0.5 * torch.eye(40)[10:20]
    found = share(left, right)
    assert found["share"] == expected
    assert found["mean_cosine"] == pytest.approx(cosine)
    assert share(left, right, threshold=0.5)["share"] == 1.0


def test_dead_latents_are_left_out() -> None:
    other = torch.cat([UNITS[:40], random_units(20, 40, 4)])
    alive = torch.ones(60)
    alive[40:] = 0
    assert share(UNITS, other)["share"] == pytest.approx(40 / 60)
    assert share(UNITS, other, densities=[alive, alive])["share"] == 1.0
    # Twenty latents of the first coder have no partner: 2·40 of 60 + 40 are found again.
    uneven = share(UNITS, other, densities=[torch.ones(60), alive])
    assert uneven["share"] == pytest.approx(80 / 100)
    assert uneven["live_latents"] == [60, 40]
    assert uneven["mean_cosine"] == pytest.approx(1.0)
    assert uneven["intervals"]["mean_cosine"] == pytest.approx([1.0, 1.0])


def test_three_coders_are_three_pairs() -> None:
    found = share(UNITS, UNITS, random_units(60, 40, 5))
    assert found["share"] == pytest.approx(1 / 3)
    assert found["coders"] == 3


def test_refusals_are_one_line() -> None:
    with pytest.raises(UsageError, match="at least two"):
        share(UNITS)
    with pytest.raises(UsageError, match=r"one shape.*\(60, 40\) and \(50, 40\)"):
        share(UNITS, UNITS[:50])
    with pytest.raises(UsageError, match="one density a latent"):
        share(UNITS, UNITS, densities=[torch.ones(60)])
    with pytest.raises(CoderError, match="coder 1 has no latent"):
        share(UNITS, UNITS, densities=[torch.ones(60), torch.zeros(60)])


def test_as_a_part_coders_are_compared_with_those_of_other_seeds_only() -> None:
    def subject(W: torch.Tensor, **options: object) -> Subject:
        coder = coder_with(W)
        coder.metadata.options = options
        return Subject(coder)

    first, again, other = subject(UNITS, k=4), subject(UNITS[torch.randperm(60)], k=4), subject(UNITS, k=8)
    setting = Setting(None, [], None, resamples=20)  # type: ignore[arg-type]
    one, two, alone = measure([first, again, other], setting)
    assert one == two
    assert one["share"].found.value == 1.0
    assert one["share"].controls["random"].value < 0.2
    assert "from another seed" in alone.absent

    # Trained by another recipe, with decoders that stayed as they were drawn, from the same seed: nothing to compare.
    def trained(W: torch.Tensor, seed: int, **given: object) -> Subject:
        made = subject(W, k=4)
        run = {"tied": given.pop("tied", 0.7), "seed": 0, "coders": [seed]}
        made.coder.metadata.training = {"coder": {"name": str(seed), "seed": seed, **given}, "config": run}
        return made

    shuffled = UNITS[torch.randperm(60)]
    assert measure([trained(UNITS, 0), trained(shuffled, 1)], setting)[0]["share"].found.value == 1.0
    for pair, why in (
        ((trained(UNITS, 0), trained(shuffled, 1, tied=0.0)), "from another seed"),
        (
            (trained(UNITS, 0, frozen_decoder=True), trained(shuffled, 1, frozen_decoder=True)),
            "as their seeds drew them",
        ),
        ((trained(UNITS, 1), trained(UNITS, 1)), "are the same"),
    ):
        assert why in measure(list(pair), setting)[0].absent
    # Half of the latents are dead in both: what is dead agrees by having stayed where it began, and does not count.
    halves = torch.cat([UNITS[:30], random_units(30, 40, 5)])
    density = torch.cat([torch.zeros(30), torch.ones(30)])
    dead = Setting(None, [], None, resamples=20, densities=(density, density))  # type: ignore[arg-type]
    assert measure([subject(UNITS), subject(halves)], dead)[0]["share"].found.value < 0.1
    assert measure([subject(UNITS), subject(halves)], setting)[0]["share"].found.value >= 0.5


def test_a_coder_that_died_is_absent_with_its_reason_and_ends_nothing() -> None:
    subjects = [Subject(coder_with(UNITS)), Subject(coder_with(UNITS))]
    densities = (torch.ones(60), torch.zeros(60))
    setting = Setting(None, [], None, resamples=20, densities=densities)  # type: ignore[arg-type]
    for part in measure(subjects, setting):
        assert "coder 1 has no latent that fires" in part.absent
