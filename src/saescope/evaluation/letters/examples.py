"""What a coder reads and should write at the words, and the probes for their first letters."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from saescope.evaluation.letters.words import LEAST_WORDS, MOST_WORDS, Words, vocabulary_words
from saescope.evaluation.linear_probe import LinearProbes, fit_probes
from saescope.evaluation.setting import Setting
from saescope.evaluation.subject import Subject
from saescope.text import Sequencer


@dataclass(frozen=True)
class LetterExamples:
    """Words whose position counts, with read [words, d_in] and written [words, d_out] in float32, and how many were left
    out as special tokens or attention sinks."""

    words: Words
    read: Float[Tensor, "words d_in"]
    written: Float[Tensor, "words d_out"]
    left_out: int = 0

    def probes(self) -> LinearProbes:
        """One a letter, of what the coder should write, fitted on the training words."""
        train = ~self.words.test
        return fit_probes(self.written[train], self.words.member[train])


def letter_examples(subject: Subject, words: Words, setting: Setting) -> LetterExamples | str:
    """The model's activations at the last token of each word's text, which begins as the coder's training text did; or why
    they cannot be probed."""
    prefix = Sequencer([], setting.lm.tokenizer, subject.sequence_options()).prefix
    texts = words.texts(setting.lm.tokenizer, prefix)
    found = setting.cache.of(texts, subject.points, lambda done, total: setting.progress("run words", done, total))
    last = found.pointers[1:] - 1
    kept = found.kept(found.rule_of(subject, setting.lm.special_ids))[last]
    left_out = int((~kept).sum())
    counting = words.of(kept)
    if not counting.trainable:
        return (
            f"the coder's exclusion rule takes {left_out} of {kept.numel()} words for special tokens or attention sinks, "
            "which leaves some letter without words"
        )
    at = last[kept]
    read, written = (
        found.concatenated([part.point for part in parts], at) for parts in (subject.coder.reads, subject.coder.writes)
    )
    return LetterExamples(counting, read, written, left_out)


def words_or_reason(setting: Setting) -> Words | str:
    """The model's words, or why it has none."""
    words = vocabulary_words(setting.lm.tokenizer, setting.seed, min(MOST_WORDS, setting.examples))
    if words is None:
        return (
            "the model's vocabulary does not have two letters with "
            f"{LEAST_WORDS} lower-case whole words each (one token, a space before it)"
        )
    return words
