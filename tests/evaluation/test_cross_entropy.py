"""CE and KL with the coder in the model."""

from __future__ import annotations

import pytest
import torch
from tests.measured import POINT, D, constant_coder, documents, identity_coder, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.coders import Slice, SparseCoder, make_architecture
from saescope.evaluation import Evaluation, Subject, evaluate
from saescope.evaluation.cross_entropy import Predictions, SplicedRuns
from saescope.features import Passages
from saescope.lm import LanguageModel


@pytest.fixture(scope="module")
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


def passages(rows: list[list[int]]) -> Passages:
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [-1] * (longest - len(row)) for row in rows])
    return Passages(tokens, torch.where(tokens >= 0, 0, -1), torch.arange(len(rows)))


def mean_of(lm: LanguageModel) -> torch.Tensor:
    tokens = torch.randint(3, lm.vocab_size, (4, 30), generator=torch.Generator().manual_seed(0))
    return lm.run(tokens, capture=[POINT]).activations[POINT].flatten(0, 1).mean(0)


def one(lm: LanguageModel, subject: Subject, **options: int) -> Evaluation:
    return evaluate(subject, lm, documents(), resamples=50, **options)[0]


def test_the_identity_costs_nothing_at_all(lm: LanguageModel) -> None:
    found = one(lm, Subject(identity_coder(), {f"mean.{POINT}": mean_of(lm)})).coder
    assert found["ce_sae"] == found["ce_orig"]
    assert found["kl"] == 0
    assert found["ce_increase"] == 0
    assert found["ce_recovered"] == found["ce_recovered_mean"] == 1


def test_a_crosscoder_that_writes_what_it_reads_is_measured(lm: LanguageModel) -> None:
    """Its first point is written before its second one has been read: no single run could splice it by itself."""
    places = [Slice(point=point, width=D) for point in ("resid_post.0", "resid_post.1")]
    crosscoder = SparseCoder(make_architecture("standard", 4 * D, {}), places, places, apply_b_dec_to_input=False)
    crosscoder.requires_grad_(False)
    eye = torch.eye(2 * D)
    crosscoder.W_enc_rows.copy_(torch.cat([eye, -eye]))
    crosscoder.W_dec.copy_(torch.cat([eye, -eye]))
    found = one(lm, Subject(crosscoder.eval())).coder
    assert found["fvu_centered"] < 1e-10
    assert found["ce_recovered"] == pytest.approx(1, abs=1e-4)
    assert abs(found["kl"]) < 1e-5
    crosscoder.W_dec.zero_()
    assert one(lm, Subject(crosscoder)).coder["ce_recovered"] == 0


def test_zeros_recover_nothing(lm: LanguageModel) -> None:
    found = one(lm, Subject(constant_coder(torch.zeros(D)))).coder
    assert found["ce_recovered"] == 0
    assert found["ce_sae"] == found["ce_zero"] != found["ce_orig"]
    assert found["dead_fraction"] == 1
    assert found["ce_mean"] is None
    assert found["ce_recovered_mean"] is None


def test_the_mean_recovers_nothing_of_the_mean_ablation(lm: LanguageModel) -> None:
    mean = mean_of(lm)
    found = one(lm, Subject(constant_coder(mean), {f"mean.{POINT}": mean})).coder
    assert found["ce_recovered_mean"] == 0
    assert found["ce_sae"] == found["ce_mean"]
    assert found["ce_recovered"] != 0


def test_formulas_against_a_plain_computation(lm: LanguageModel) -> None:
    coder = random_coder()
    rows = torch.randint(3, lm.vocab_size, (2, 12), generator=torch.Generator().manual_seed(2))
    batch = passages(rows.tolist())
    kept = torch.ones(2, 12, dtype=torch.bool)
    kept[:, 0] = False
    run = lm.run(rows, capture=[POINT], logits=True)
    assert run.logits is not None
    predictions = Predictions.of(run.logits, batch, kept)
    x_hat = coder(run.activations[POINT][kept])
    ce, kl = predictions.compare(SplicedRuns(lm, batch, run.activations).logits(coder, kept, x_hat))

    changed = run.activations[POINT].clone()
    changed[kept] = x_hat.detach()
    logits = lm.run(rows, start=(POINT, changed), logits=True).logits
    assert logits is not None
    p, q = run.logits.double().log_softmax(-1), logits.double().log_softmax(-1)
    losses = -q[:, 1:-1].gather(2, rows[:, 2:, None]).flatten()
    divergence = (p.exp() * (p - q)).sum(-1)[:, 1:-1].flatten()
    torch.testing.assert_close(ce.double(), losses, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(kl.double(), divergence, rtol=1e-4, atol=1e-5)


def test_only_kept_positions_with_a_real_next_token_predict(lm: LanguageModel) -> None:
    batch = passages([[5, 6, 7, 8, 9], [10, 11, 12]])
    kept = torch.tensor([[False, True, False, True, True], [True, True, True, False, False]])
    logits = torch.zeros(2, 5, lm.vocab_size)
    predictions = Predictions.of(logits, batch, kept)
    # Row 0: from 6 and 8 (9 ends the sequence). Row 1: from 10 and 11 (12 is followed by padding).
    assert predictions.target.tolist() == [7, 9, 11, 12]


def test_chunks_of_positions_change_nothing(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = passages([list(range(5, 25))])
    generator = torch.Generator().manual_seed(0)
    one, other = (torch.randn(1, 20, lm.vocab_size, generator=generator) * 3 for _ in range(2))
    predictions = Predictions.of(one, batch, batch.real)
    whole = predictions.compare(other)
    monkeypatch.setattr("saescope.evaluation.cross_entropy._CHUNK_ELEMENTS", 3 * lm.vocab_size)
    for left, right in zip(whole, predictions.compare(other), strict=True):
        torch.testing.assert_close(left, right)
    torch.testing.assert_close(predictions.cross_entropy(other), whole[0])


def test_tokens_the_model_rules_out_do_not_spoil_kl() -> None:
    batch = passages([[1, 2, 3]])
    own = torch.zeros(1, 3, 6)
    own[..., 5] = -torch.inf
    other = torch.randn(1, 3, 6)
    both_out = other.clone()
    both_out[..., 5] = -torch.inf
    predictions = Predictions.of(own, batch, batch.real)
    for logits in (other, both_out):
        _, kl = predictions.compare(logits)
        assert torch.isfinite(kl).all()
        assert (kl > 0).all()


def test_starting_in_the_middle_and_editing_agree(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    batch = passages([list(range(5, 20)), list(range(30, 40))])
    kept = batch.real.clone()
    kept[:, 0] = False
    run = lm.run(batch.tokens.clamp(min=0), attention_mask=batch.real.long(), capture=[POINT])
    coder = random_coder()
    values = coder(run.activations[POINT][kept]).detach()
    spliced = SplicedRuns(lm, batch, run.activations)
    assert lm.can_start_at(POINT)
    started = spliced.logits(coder, kept, values)
    monkeypatch.setattr(type(lm), "can_start_at", lambda self, point: False)
    edited = spliced.logits(coder, kept, values)
    torch.testing.assert_close(started[batch.real], edited[batch.real])


def test_positions_that_are_not_kept_are_not_touched(lm: LanguageModel) -> None:
    # With every position left out but the last, whose prediction does not count, nothing can change.
    batch = passages([list(range(5, 20))])
    kept = torch.zeros_like(batch.real)
    run = lm.run(batch.tokens, capture=[POINT], logits=True)
    spliced = SplicedRuns(lm, batch, run.activations)
    logits = spliced.logits(random_coder(), kept, torch.zeros(0, D))
    assert run.logits is not None
    assert torch.equal(logits, run.logits)
