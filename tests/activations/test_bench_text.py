"""Text to coder, timed on a tiny model: the whole way runs, with one coder and with several."""

from __future__ import annotations

import pytest

from saescope.bench import Shape, time_text
from saescope.errors import UsageError
from saescope.lm import LanguageModel
from saescope.text import Corpus


def test_text_is_timed_alone_and_with_coders(lm: LanguageModel, corpus: Corpus) -> None:
    shape = Shape("topk", d_in=lm.width("resid_post.1"), d_sae=64, l0=4, batch_size=128)
    found = time_text(lm, corpus, "resid_post.1", tokens=1024, coders=(1, 2), shape=shape)
    assert found.alone > 0
    assert set(found.trained) == {1, 2}
    assert min(found.trained.values()) > 0


def test_tokens_are_those_that_there_were(lm: LanguageModel, corpus: Corpus) -> None:
    shape = Shape("topk", d_in=lm.width("resid_post.1"), d_sae=64, l0=4, batch_size=128)
    found = time_text(lm, corpus, "resid_post.1", tokens=10**6, coders=(), shape=shape)
    assert 0 < found.tokens < 10**5
    with pytest.raises(UsageError, match="too few to time"):
        time_text(lm, corpus, "resid_post.1", tokens=3, shape=shape)
