"""The real model, in the precision it runs in here."""

from __future__ import annotations

import pytest
import torch
from tests.measured import constant_coder, identity_coder

from saescope.evaluation import Subject, evaluate
from saescope.lm import LanguageModel
from saescope.text import Corpus

POINT = "resid_post.14"


@pytest.fixture(scope="module")
def smollm2() -> LanguageModel:
    return LanguageModel.load("smollm2", device="cpu")


@pytest.mark.real
def test_identity_and_mean_on_the_real_model(smollm2: LanguageModel) -> None:
    corpus = Corpus.open("lee-news")
    tokens = torch.arange(1000, 1128)[None]
    mean = smollm2.run(tokens, capture=[POINT]).activations[POINT][0, 8:].float().mean(0)
    rule = {"special_ids": sorted(smollm2.special_ids), "reference_norm": {POINT: 150.0}, "ratio": 10.0}
    options = {"reads": POINT, "kept_rule": rule, "sequences": {"context": 64}}
    reference = {f"mean.{POINT}": mean}
    subjects = [
        Subject(identity_coder(smollm2.d_model, **options), reference),
        Subject(constant_coder(mean, **options), reference),
    ]
    exact, constant = (found.coder for found in evaluate(subjects, smollm2, corpus, max_tokens=128, resamples=10))
    # bfloat16 activations pass through float32 and back unchanged, so not even rounding is left.
    assert exact["kl"] == 0
    assert exact["ce_sae"] == exact["ce_orig"] < 6
    assert exact["fvu_centered"] == 0
    assert constant["ce_recovered_mean"] == 0
    assert constant["ce_orig"] < constant["ce_mean"]
    assert constant["dead_fraction"] == 1
