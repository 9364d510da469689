"""Other packages' formulas, at coders whose numbers are known. That they are those packages' own is checked against them by
`benchmarks/conventions_agreement.py`."""

from __future__ import annotations

import pytest
import torch
from tests.measured import POINT, D, constant_coder, documents, identity_coder, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.errors import TextError, UsageError
from saescope.evaluation import CONVENTIONS, ActivationCache, Setting, Subject, convention, measure_as
from saescope.evaluation.conventions import numbers_as
from saescope.lm import LanguageModel

SPECIAL = frozenset({0, 1, 2})


@pytest.fixture
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


@pytest.fixture
def batches() -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    made = [torch.randint(3, 300, (4, 12), generator=generator) for _ in range(3)]
    for batch in made:
        batch[:, 0] = 1
    return made


def counted(lm: LanguageModel, batches: list[torch.Tensor]) -> torch.Tensor:
    """Activations at the positions that count, of all batches."""
    runs = [lm.run(batch, capture=[POINT]).activations[POINT][:, 1:].flatten(0, 1) for batch in batches]
    return torch.cat(runs).double()


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_perfect_coder_is_perfect(lm: LanguageModel, batches: list[torch.Tensor], name: str) -> None:
    found = numbers_as(CONVENTIONS[name], identity_coder(), lm, batches, SPECIAL)
    for key in ("explained_variance", "explained_variance_legacy", "cossim", "ce_loss_score", "kl_div_score"):
        assert found[key] == pytest.approx(1, abs=1e-5), key
    assert found["mse"] == pytest.approx(0, abs=1e-8)
    assert found["l0"] == pytest.approx(D)
    assert found["l1"] == pytest.approx(float(counted(lm, batches).abs().sum(1).mean()), rel=1e-5)
    assert found["l2_norm_in"] == pytest.approx(float(counted(lm, batches).norm(dim=1).mean()), rel=1e-5)


def test_the_mean_explains_nothing_and_zero_is_the_ablation(lm: LanguageModel, batches: list[torch.Tensor]) -> None:
    x = counted(lm, batches)
    found = numbers_as(CONVENTIONS["saelens"], constant_coder(x.mean(0).float()), lm, batches, SPECIAL)
    assert found["explained_variance"] == pytest.approx(0, abs=1e-5)
    assert found["mse"] == pytest.approx(float((x - x.mean(0)).square().sum(1).mean()), rel=1e-5)
    # sae-bench replaces special positions too, so zeros from the coder are its ablation exactly; sae-lens leaves them.
    zero = constant_coder(torch.zeros(D))
    for name, same in (("saebench", True), ("saelens", False)):
        found = numbers_as(CONVENTIONS[name], zero, lm, batches, SPECIAL)
        assert (found["ce_loss_with_sae"] == pytest.approx(found["ce_loss_with_ablation"], rel=1e-6)) is same


def test_what_is_odd_in_sae_bench_is_kept(lm: LanguageModel, batches: list[torch.Tensor]) -> None:
    coder = random_coder(threshold=0.0)
    lens, bench = (numbers_as(CONVENTIONS[name], coder, lm, batches, SPECIAL) for name in ("saelens", "saebench"))
    assert bench["mse"] == pytest.approx(lens["mse"] / (4 * 11), rel=1e-6)
    x = counted(lm, batches)
    error = 1 - lens["explained_variance"]
    own_variance = float((x - x.mean(0)).square().sum(1).mean())
    odd_variance = float(x.square().sum(1).mean() - x.square().mean().square())
    assert 1 - bench["explained_variance"] == pytest.approx(error * own_variance / odd_variance, rel=1e-5)
    for key in ("explained_variance_legacy", "cossim", "l2_ratio", "l0", "ce_loss_without_sae"):
        assert bench[key] == pytest.approx(lens[key], rel=1e-6), key


def test_broken_coders_are_seen(lm: LanguageModel, batches: list[torch.Tensor]) -> None:
    def measured(coder: object) -> dict[str, float]:
        return numbers_as(CONVENTIONS["saelens"], coder, lm, batches, SPECIAL)  # type: ignore[arg-type]

    whole, halved, moved = identity_coder(), identity_coder(), identity_coder()
    with torch.no_grad():
        halved.W_dec.mul_(0.5)
        moved.b_dec.add_(1.0)
        moved.apply_b_dec_to_input = False
    assert measured(halved)["relative_reconstruction_bias"] == pytest.approx(0.5, rel=1e-5)
    assert measured(halved)["l2_ratio"] == pytest.approx(0.5, rel=1e-5)
    assert measured(moved)["mse"] == pytest.approx(D, rel=1e-4)
    assert measured(moved)["ce_loss_score"] < measured(whole)["ce_loss_score"]


def test_as_a_part_on_whole_sequences(lm: LanguageModel) -> None:
    setting = Setting(lm, documents(), ActivationCache(lm))
    subjects = [Subject.of(identity_coder()), Subject.of(random_coder())]
    exact, rough = measure_as(convention("saelens"), subjects, setting)
    assert exact.name == "saelens"
    assert exact["explained_variance"].found.value == pytest.approx(1, abs=1e-5)
    assert rough["explained_variance"].found.value < 0.9
    with_short = Setting(lm, documents(2, words=2), ActivationCache(lm))
    short = Subject.of(identity_coder(sequences={"context": 16, "packed": False}))
    with pytest.raises(TextError, match="no sequence of 16 tokens"):
        measure_as(convention("saelens"), [short], with_short)
    silent = measure_as(convention("saebench"), [Subject.of(constant_coder(torch.zeros(D)))], setting)[0]
    assert silent["cossim"].found.value is None
    with pytest.raises(UsageError, match="no convention 'saelen'"):
        convention("saelen")
