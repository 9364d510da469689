"""A whole evaluation: what it records, shares and refuses."""

from __future__ import annotations

import json
import warnings
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.measured import POINT, D, coder_of, documents, identity_coder, random_coder, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.activations import KeptRule
from saescope.coders import save
from saescope.errors import CoderError, ForeignCoderWarning, UsageError
from saescope.evaluation import METRICS, Evaluation, Subject, evaluate, record
from saescope.evaluation.cross_entropy import Predictions
from saescope.evaluation.measurement import Measurement
from saescope.lm import LanguageModel


@pytest.fixture(scope="module")
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


def reference() -> dict[str, torch.Tensor]:
    components = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(0)))[0]
    return {f"mean.{POINT}": torch.full((D,), 0.1), f"components.{POINT}": components}


def test_metrics_json_has_every_metric_for_coder_and_controls(lm: LanguageModel, tmp_path: Path) -> None:
    folder = save(random_coder(threshold=1.0), tmp_path / "mine", reference=reference())
    found = evaluate(folder, lm, documents(), resamples=50)
    written = json.loads(json.dumps(record(found), allow_nan=False))
    assert written["schema"] == 2
    keys = {metric.key for metric in METRICS}
    assert keys <= written["coder"].keys()
    assert keys <= written["controls"]["frozen_random"].keys()
    for name in ("pca", "neurons"):
        assert keys - written["controls"][name].keys() == {"l1", "dead_fraction", "dense_10"}
    assert written["coder"]["n_tokens"] == written["evaluation"]["kept_tokens"]
    assert sum(written["coder"]["decoder_cosine_histogram"]["counts"]) == 60
    for row in ("coder", "frozen_random", "pca", "neurons"):
        for name, interval in written["intervals"][row].items():
            value = (written["coder"] if row == "coder" else written["controls"][row])[name]
            assert interval[0] - 1e-9 <= value <= interval[1] + 1e-9, (row, name)


def test_several_coders_are_a_list_and_share_each_original_run(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[dict[str, Any]] = []
    run = LanguageModel.run

    def counted(self: LanguageModel, tokens: torch.Tensor, **options: Any) -> Any:
        calls.append(options)
        return run(self, tokens, **options)

    lm.can_start_at(POINT)
    monkeypatch.setattr(LanguageModel, "run", counted)
    found = evaluate([random_coder(), identity_coder()], lm, documents(), resamples=20)
    assert isinstance(record(found), list)
    plain = [options for options in calls if options.get("logits") and "start" not in options]
    spliced = [options for options in calls if "start" in options]
    # For each batch: zero ablation once, then each coder, its frozen_random and its neurons (where its L0 is not more than the
    # dimensions there are). No reference, so no mean and no pca.
    of_coders = sum(2 + ("absent" not in one.controls["neurons"]) for one in found)
    assert len(spliced) == (1 + of_coders) * len(plain)


def test_several_coders_get_the_numbers_each_gets_alone(lm: LanguageModel) -> None:
    coders = [random_coder(), random_coder(seed=9, threshold=0.8)]
    together = evaluate(coders, lm, documents(), resamples=20)
    for coder, both in zip(coders, together, strict=True):
        alone = evaluate(coder, lm, documents(), resamples=20)[0]
        assert alone.coder == both.coder
        assert alone.intervals == both.intervals


def test_controls_share_the_sums_of_what_is_reconstructed(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Measurement] = []
    update = Measurement.update

    def watched(self: Measurement, *given: Any) -> None:
        made.append(self)
        update(self, *given)

    monkeypatch.setattr(Measurement, "update", watched)
    evaluate(Subject(random_coder(threshold=1.0), reference()), lm, documents(), resamples=20)
    rows = made[0].rows
    assert len(rows) == 4
    assert len({row.sums["moved"].data_ptr() for row in rows.values()}) == 1


def test_each_coder_is_ablated_to_its_own_mean(lm: LanguageModel) -> None:
    """Coders of one place may come without a mean, or with that of other training text; none takes another's."""
    means = [None, torch.full((D,), 0.1), torch.full((D,), -2.0)]
    subjects = [Subject(random_coder(), {} if mean is None else {f"mean.{POINT}": mean}) for mean in means]
    alone = [evaluate(subject, lm, documents(4), resamples=10)[0].coder["ce_mean"] for subject in subjects]
    assert alone[0] is None
    assert alone[1] != alone[2]
    for order in ([0, 1, 2], [2, 1, 0]):
        together = evaluate([subjects[index] for index in order], lm, documents(4), resamples=10)
        assert [one.coder["ce_mean"] for one in together] == [alone[index] for index in order]


def _numbers(evaluation: Evaluation) -> dict[str, float]:
    left_out = {"ev_batch_legacy"}
    return {key: value for key, value in evaluation.coder.items() if isinstance(value, float) and key not in left_out}


def _at_every_layer() -> list[Any]:
    return [random_coder(reads=f"{name}.{layer}") for layer in range(3) for name in ("resid_post", "mlp_out")]


def test_measured_in_parts_each_coder_gets_the_same_numbers(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    together = evaluate(_at_every_layer(), lm, documents(), resamples=20)
    told: list[tuple[str, int, int]] = []
    # A sample of 16,384 tokens of width 24 in float32 and a control of 60 latents: two coders fit.
    monkeypatch.setattr("saescope.evaluation.run._PART_BYTES", 2 * (16384 * D * 4 + 4 * 60 * 2 * D))
    parts = evaluate(_at_every_layer(), lm, documents(), resamples=20, progress=lambda *event: told.append(event))
    for one, other in zip(together, parts, strict=True):
        assert (one.coder, one.controls, one.intervals) == (other.coder, other.controls, other.intervals)
    measured = [done for stage, done, _ in told if stage == "measure"]
    assert measured == sorted(measured)
    assert measured[-1] == told[-1][2] == 3 * together[0].evaluation["tokens"]


def test_what_a_shared_rule_leaves_out_is_found_once_for_all_coders(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    exclusions = KeptRule.exclusions

    def counted(self: KeptRule, *given: Any) -> Any:
        calls.append(1)
        return exclusions(self, *given)

    monkeypatch.setattr(KeptRule, "exclusions", counted)
    evaluate(_at_every_layer()[0], lm, documents(), resamples=5)
    alone = len(calls)
    evaluate(_at_every_layer(), lm, documents(), resamples=5)
    assert len(calls) == 2 * alone


def test_probabilities_of_one_rule_are_held_at_a_time(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Coders of several runs have a rule each; over a large vocabulary their predictions are what fills the memory."""
    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0
    init = Predictions.__init__

    def counted(self: Predictions, *given: Any) -> None:
        nonlocal most
        init(self, *given)
        alive.add(self.log_p)
        most = max(most, len(alive))

    monkeypatch.setattr(Predictions, "__init__", counted)
    rules = [{"special_ids": [0, 1, 2], "reference_norm": {}, "ratio": 10.0 + number} for number in range(4)]
    evaluate([random_coder(kept_rule=rule) for rule in rules], lm, documents(), resamples=5, batch_tokens=64)
    assert most == 1


@pytest.mark.parametrize("packed", [True, False])
def test_batch_size_changes_nothing(lm: LanguageModel, packed: bool) -> None:
    coder = random_coder(sequences={"context": 16, "packed": packed})
    small = evaluate(coder, lm, documents(), resamples=20, batch_tokens=16)[0]
    large = evaluate(coder, lm, documents(), resamples=20, batch_tokens=400)[0]
    assert _numbers(small) == pytest.approx(_numbers(large), rel=1e-4)
    assert small.evaluation["predictions"] == large.evaluation["predictions"]
    torch.testing.assert_close(small.contexts.value, large.contexts.value, rtol=1e-4, atol=1e-4)


def test_special_tokens_count_for_nothing(lm: LanguageModel) -> None:
    found = evaluate(random_coder(sequences={"context": 16, "bos": "always"}), lm, documents(), resamples=20)[0]
    facts = found.evaluation
    assert facts["excluded"]["special"] >= facts["sequences"]
    assert facts["kept_tokens"] == facts["tokens"] - facts["excluded"]["special"] - facts["excluded"]["sink"]


def test_sinks_count_for_nothing(lm: LanguageModel) -> None:
    rule = {"special_ids": [], "reference_norm": {POINT: 1e-6}, "ratio": 10.0}
    with pytest.raises(Exception, match="special token or an attention sink"):
        evaluate(random_coder(kept_rule=rule), lm, documents())


def test_less_text_for_ce_than_for_reconstruction(lm: LanguageModel) -> None:
    whole = evaluate(random_coder(), lm, documents(), resamples=20, batch_tokens=64)[0]
    part = evaluate(random_coder(), lm, documents(), resamples=20, batch_tokens=64, ce_tokens=100)[0]
    assert part.coder["fvu_centered"] == whole.coder["fvu_centered"]
    assert 0 < part.evaluation["predictions"] < whole.evaluation["predictions"] / 2


def test_a_transcoder_is_spliced_where_it_writes(lm: LanguageModel) -> None:
    weights = torch.randn(40, D, generator=torch.Generator().manual_seed(0))
    zeros = coder_of(weights, torch.zeros(40, D), reads="mlp_in.1", writes="mlp_out.1", name="silent")
    found = evaluate(zeros, lm, documents(), resamples=20)[0]
    assert found.coder["ce_recovered"] == 0
    assert found.coder["ce_zero"] != found.coder["ce_orig"]
    assert found.coder["fvu_centered"] > 0.9
    assert "writes what it reads" in found.controls["frozen_random"]["absent"]
    assert "without mean" in found.controls["pca"]["absent"]
    assert found.controls["neurons"].keys() == {"absent"}


def test_another_model_is_refused_in_one_line(byte_tokenizer: PreTrainedTokenizerFast, lm: LanguageModel) -> None:
    coder = random_coder(model=lm.identity() | {"spec": "tiny"})
    evaluate(coder, lm, documents(), resamples=10)
    # By the rule of an earlier version, nothing can be said of the weights.
    evaluate(random_coder(model=lm.identity() | {"weights": "0" * 64}), lm, documents(), resamples=10)
    with pytest.raises(CoderError, match=r"was trained on tiny.*weights.*--model") as refusal:
        evaluate(coder, tiny_lm(byte_tokenizer, "other", 1), documents())
    assert "\n" not in str(refusal.value)


def test_another_name_alone_is_a_warning(lm: LanguageModel) -> None:
    """Files of other tools name their model and no more; its width is that of many."""
    named = Subject(random_coder(model={"spec": "someone/other-1b"}))
    with pytest.warns(
        ForeignCoderWarning, match="coder random is by its files of someone/other-1b and is used with tiny"
    ):
        named.check_model(lm)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for spec in ("tiny", "someone/Tiny", "hf:someone/tiny@main", "/models/tiny/"):
            Subject(random_coder(model={"spec": spec})).check_model(lm)
        # Weights say more than a name does.
        Subject(random_coder(model=lm.identity() | {"spec": "someone/other-1b"})).check_model(lm)


def test_another_width_is_refused_in_one_line(lm: LanguageModel) -> None:
    with pytest.raises(CoderError, match=f"takes {POINT} of width 10, .* has {D}"):
        evaluate(random_coder(d=10), lm, documents())


def test_text_cut_in_different_ways_is_refused(lm: LanguageModel) -> None:
    with pytest.raises(UsageError, match="cut in different ways"):
        evaluate([random_coder(), random_coder(sequences={"context": 32})], lm, documents())


def test_no_model_recorded_and_none_given() -> None:
    with pytest.raises(UsageError, match="--model"):
        Subject(random_coder()).model_spec()


def test_contexts_come_with_the_evaluation(lm: LanguageModel) -> None:
    found = evaluate(random_coder(), lm, documents(), resamples=20)[0]
    table = found.contexts
    torch.testing.assert_close(table.density, found.density)
    latent = int(table.count.argmax())
    first = table.contexts(latent)[0]
    assert found.titles[first.document].startswith("Document ")
    assert first.value == float(table.maximum[latent])
