"""First letters: are there latents for a word's first letter, over how many is it split, and is it absorbed?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from scipy import sparse

from saescope.coders import SparseCoder
from saescope.evaluation.bootstrap import RESAMPLES
from saescope.evaluation.code_matrix import code_matrix, decoder_rows, shuffled_rows
from saescope.evaluation.controls import Absent, Coded, frozen_random
from saescope.evaluation.letters.examples import LetterExamples, letter_examples, words_or_reason
from saescope.evaluation.letters.outcome import (
    LEAST_F1,
    FeatureF1,
    LetterOutcome,
    Probed,
    feature_f1,
    letter_outcome,
)
from saescope.evaluation.letters.scores import CONTROLS, lead_of, scores_of
from saescope.evaluation.letters.splitting import CANDIDATES, MOST_SPLITS, RISE
from saescope.evaluation.letters.words import TEMPLATE
from saescope.evaluation.part import Part
from saescope.evaluation.setting import Setting
from saescope.evaluation.subject import Subject

NAME = "absorption"
TITLE = "First letters, splitting, absorption"


@torch.no_grad()
def measure(subjects: Sequence[Subject], setting: Setting) -> list[Part]:
    """Of each coder: k-sparse probes for the first letters of the vocabulary's words, splits, absorption."""
    words = words_or_reason(setting)
    if isinstance(words, str):
        return [Part(NAME, TITLE, absent=words) for _ in subjects]
    shared = Shared(setting.resamples, setting.seed)
    parts = []
    for number, subject in enumerate(subjects):
        setting.progress("first letters", number, len(subjects))
        examples = letter_examples(subject, words, setting)
        if isinstance(examples, str):
            parts.append(Part(NAME, TITLE, absent=examples))
        else:
            parts.append(measure_examples(subject.on(setting.lm.device), examples, shared))
    setting.progress("first letters", len(subjects), len(subjects))
    return parts


class Shared:
    """How often to resample, and what coders of one place share: probes on activations and on single dimensions."""

    def __init__(self, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.resamples = resamples
        self.seed = seed
        self._last: tuple[LetterExamples, Probed, FeatureF1] | None = None

    def of(self, examples: LetterExamples) -> tuple[Probed, FeatureF1]:
        if self._last is None or not torch.equal(self._last[0].written, examples.written):
            probed = Probed.of(examples, self.resamples, self.seed)
            dimensions = sparse.csr_matrix(examples.written.numpy())
            self._last = (examples, probed, feature_f1(dimensions, probed, most=1, either_sign=True))
        return self._last[1:]


@torch.no_grad()
def measure_examples(subject: Subject, examples: LetterExamples, shared: Shared) -> Part:
    """One coder's part, on words whose activations are known."""
    probed, dimensions = shared.of(examples)
    if not probed.usable:
        best = float(probed.f1[0].max())
        return Part(
            NAME,
            TITLE,
            absent=f"no first letter can be read off the activations: the best linear probe has F1 {best:.2f}, "
            f"and {LEAST_F1} is needed",
        )
    codes = code_matrix(subject.coder, examples.read)
    W_dec = decoder_rows(subject.coder)
    own = letter_outcome(codes, W_dec, probed)
    shuffled = letter_outcome(codes, shuffled_rows(W_dec, shared.seed), probed, own.features)
    l0 = codes.nnz / codes.shape[0]
    control = frozen_random(subject, examples.read, l0, seed=shared.seed)
    random = None
    if not isinstance(control, Absent):
        random_codes = code_matrix(control.coder, examples.read)
        random = letter_outcome(random_codes, decoder_rows(control.coder), probed)
    descriptions = {key: text for key, text in CONTROLS.items() if random is not None or key != "frozen_random"}
    return Part(
        NAME,
        TITLE,
        lead=lead_of(own, probed),
        scores=scores_of(own, shuffled, random, dimensions, probed, shared.resamples, shared.seed),
        controls=descriptions,
        facts={**_facts(subject.coder, own, random, probed, control), "l0": l0, **_repeat(shared)},
    )


def _facts(
    coder: SparseCoder, own: LetterOutcome, random: LetterOutcome | None, probed: Probed, control: Coded | Absent
) -> dict[str, Any]:
    words = probed.examples.words
    facts: dict[str, Any] = {
        "template": TEMPLATE,
        "position": "the word's own token, the last of the text",
        "words": {
            "in_vocabulary": words.found,
            "train": int((~words.test).sum()),
            "test": int(words.test.sum()),
            "left_out_as_special_or_sink": probed.examples.left_out,
        },
        "letters_probed": "".join(words.letters),
        "letters_counted": "".join(words.letters[number] for number in probed.usable),
        "latents_chosen_by": f"F1 on training words, among the {CANDIDATES} largest mean differences in units of the "
        f"latent's standard deviation; one more while it adds over {RISE}, {MOST_SPLITS} at most",
        "by_letter": _by_letter(own, probed, coder),
    }
    if isinstance(control, Absent):
        facts["frozen_random"] = {"absent": control.reason}
    elif random is not None:
        facts["frozen_random"] = {**control.facts, "by_letter": _by_letter(random, probed, control.coder)}
    return facts


def _repeat(shared: Shared) -> dict[str, Any]:
    unit = "held-out word within its letter; for split_latents, letter"
    return {"seed": shared.seed, "intervals": {"unit": unit, "level": 0.95, "resamples": shared.resamples}}


def _by_letter(outcome: LetterOutcome, probed: Probed, coder: SparseCoder) -> dict[str, dict[str, Any]]:
    test, b_dec = probed.examples.words.test, coder.b_dec.detach().float().cpu()
    full, fraction = outcome.rates("full")[0].tolist(), outcome.rates("fraction")[0].tolist()
    found = {}
    for place, number in enumerate(probed.usable):
        absorbed, unit = outcome.absorbed[place], probed.probes.unit[:, number]
        projection = (probed.examples.written[test] @ unit)[outcome.words[place]]
        found[probed.examples.words.letters[number]] = {
            "probe_f1": float(probed.f1[0, number]),
            "k1_f1": float(outcome.features.single[0, place]),
            "split_f1": float(outcome.features.split[0, place]),
            "split_latents": list(outcome.features.features[place].split.chosen),
            "median_projection": float(projection.median()) if projection.numel() else None,
            "b_dec_projection": float(b_dec @ unit),
            "words_right": int(outcome.words[place].sum()),
            "words_counted": 0 if absorbed is None else int(absorbed.counted.sum()),
            "full_absorption_rate": _number(full[place]),
            "absorption_fraction": _number(fraction[place]),
        }
    return found


def _number(value: float) -> float | None:
    return None if value != value else value
