"""Tasks from a text: labels are what the tokens say, sides are apart, trained documents are left out."""

from __future__ import annotations

import numpy as np
import pytest
from tests.measured import documents, tiny_lm
from transformers import PreTrainedTokenizerFast

from saescope.errors import TextError
from saescope.evaluation.probing.corpus_tasks import NEXT_KINDS, TOKEN_KINDS, Seen, corpus_tasks
from saescope.evaluation.probing.passages import Pool, passages_of
from saescope.evaluation.probing.task import Candidates, Task, split
from saescope.lm import LanguageModel
from saescope.text import Document, SequenceOptions


def long_documents(n: int = 4, words: int = 900) -> list[Document]:
    return [Document(found.text, f"Long {i}", f"long:{i}") for i, found in enumerate(documents(n, words))]


def short_documents(n: int = 14) -> list[Document]:
    found = documents(n + 50, 60)[50:]
    return [Document(one.text, f"Short {i}", f"short:{i}") for i, one in enumerate(found)]


def pool_of(lm: LanguageModel, trained: set[str] | None = None, options: SequenceOptions | None = None) -> Pool:
    corpus = [*short_documents(), *long_documents()]
    return passages_of(corpus, lm, options or SequenceOptions(), trained or set(), passage_tokens=16, n_articles=2)


@pytest.fixture(scope="module")
def lm(byte_tokenizer: PreTrainedTokenizerFast) -> LanguageModel:
    return tiny_lm(byte_tokenizer)


@pytest.fixture(scope="module")
def pool(lm: LanguageModel) -> Pool:
    return pool_of(lm)


@pytest.fixture(scope="module")
def tasks(pool: Pool) -> dict[str, Candidates]:
    usable = np.ones(sum(len(text) for text in pool.texts), dtype=bool)
    return {found.name: found for found in corpus_tasks(pool, usable)}


def test_passages_are_whole_and_of_one_document(lm: LanguageModel, pool: Pool) -> None:
    texts = {document.title: document.text for document in [*short_documents(), *long_documents()]}
    for text, pieces, document in zip(pool.texts, pool.pieces, pool.document, strict=True):
        assert len(text) == 16
        assert "".join(pieces) == lm.tokenizer.decode(text)
        assert "".join(pieces) in texts[pool.titles[document]]


def test_every_passage_has_the_models_bos(bos_tokenizer: PreTrainedTokenizerFast) -> None:
    found = pool_of(tiny_lm(bos_tokenizer, "with bos"))
    assert all(len(text) == 17 and text[0] == 1 and 1 not in text[1:] for text in found.texts)


def test_trained_documents_are_in_no_passage(lm: LanguageModel, pool: Pool) -> None:
    gone = [long_documents()[0], short_documents()[3]]
    found = pool_of(lm, {document.id for document in gone})
    assert found.facts["skipped_trained_documents"] == 2
    left = {found.titles[number] for number in found.document}
    assert {pool.titles[number] for number in pool.document} - left == {"Long 0", "Short 3"}


def test_no_document_left_is_one_line(lm: LanguageModel) -> None:
    corpus = documents(3)
    with pytest.raises(TextError, match="trained on"):
        passages_of(corpus, lm, SequenceOptions(), {d.id for d in corpus}, passage_tokens=16, n_articles=2)
    with pytest.raises(TextError, match="500 tokens"):
        passages_of(corpus, lm, SequenceOptions(), set(), passage_tokens=500, n_articles=2)


def test_an_article_is_told_from_others_and_train_and_test_passages_are_not_neighbours(
    pool: Pool, tasks: dict[str, Candidates]
) -> None:
    articles = [name for name in tasks if name.startswith("article: ")]
    assert len(articles) == 2
    text_of = {name: "".join(d.text for d in long_documents() if d.title in name) for name in articles}
    for name in articles:
        found = split(tasks[name], seed=0, most=1000)
        assert isinstance(found, Task), found
        of_article = ["".join(pool.pieces[i]) in text_of[name] for i in found.example]
        assert of_article == found.label.tolist()
        # Where each passage of the article begins in it: none of one side begins where one of the other ends.
        own = found.example[found.label]
        start = {i: text_of[name].index("".join(pool.pieces[i])) for i in own}
        end = {i: start[i] + len("".join(pool.pieces[i])) for i in own}
        test = set(own[found.test[found.label]])
        assert test
        assert set(own) - test
        for one in test:
            for other in set(own) - test:
                assert end[one] != start[other]
                assert end[other] != start[one]


def test_a_file_of_few_documents_is_no_task(tasks: dict[str, Candidates]) -> None:
    assert not [name for name in tasks if name.startswith("file: ")]


def test_two_files_are_one_task(lm: LanguageModel) -> None:
    others = [Document(d.text, d.title, f"b.txt:{i}") for i, d in enumerate(documents(20, 60)[10:])]
    corpus = [*short_documents(), *others]
    found = passages_of(corpus, lm, SequenceOptions(), set(), passage_tokens=16, n_articles=0)
    usable = np.ones(sum(len(text) for text in found.texts), dtype=bool)
    (task,) = (one for one in corpus_tasks(found, usable) if one.name.startswith("file: "))
    assert task.name == "file: short"
    assert [found.files[found.document[i]] == "short" for i in task.example] == task.label.tolist()
    assert np.array_equal(task.group, found.document[task.example])


def test_token_tasks_say_what_tokens_are_and_what_comes_next(pool: Pool, tasks: dict[str, Candidates]) -> None:
    pieces = [piece for passage in pool.pieces for piece in passage]
    last = np.cumsum([len(text) for text in pool.texts]) - 1
    digits = tasks["token: digit"]
    assert digits.label.any()
    for row, label in zip(digits.example, digits.label, strict=True):
        assert label == pieces[row].strip().isdigit()
    the = tasks["next: the"]
    assert not set(the.example) & set(last)
    for row, label in zip(the.example, the.label, strict=True):
        assert label == (pieces[row + 1] == " the")
        assert pieces[row].strip().isalpha()
    documents_of = np.repeat(pool.document, [len(text) for text in pool.texts])
    for name in ("token: digit", "next: the"):
        assert np.array_equal(tasks[name].group, documents_of[tasks[name].example])


def test_rows_that_do_not_count_are_in_no_task(pool: Pool) -> None:
    n = sum(len(text) for text in pool.texts)
    usable = np.arange(n) % 3 != 0
    usable[: 2 * 16] = False
    for found in corpus_tasks(pool, usable):
        if found.level == "token":
            assert usable[found.example].all()
        else:
            assert not {0, 1} & set(found.example)


@pytest.mark.parametrize(
    ("kind", "yes", "no"),
    [
        ("digit", ["7", " 12", "½"], ["a", "", " ", "a7", "7a"]),
        ("capitalised", [" The", " A", " Éa"], ["The", " the", " T.", " 7", " ", ""]),
        ("punctuation", [",", " (", "...", "—"], ["a,", "", " ", "+", "7"]),
    ],
)
def test_kinds_of_tokens(kind: str, yes: list[str], no: list[str]) -> None:
    holds = TOKEN_KINDS[kind]
    assert [piece for piece in [*yes, *no] if holds(Seen("", piece, ""))] == yes


def test_kinds_that_depend_on_neighbours() -> None:
    inside = TOKEN_KINDS["inside a word"]
    assert inside(Seen(" un", "believ", "able"))
    assert not inside(Seen(",", "believ", ""))
    assert not inside(Seen(" un", " believ", ""))
    assert not inside(Seen("", "believ", ""))
    after = {
        "comma": [",", ',"'],
        "end of sentence": [".", '."', "?"],
        "the": [" the"],
        "of": [" of"],
        "capitalised": [" Rome"],
        "bracket": [" (", "("],
        "same word": ["able"],
    }
    assert after.keys() == NEXT_KINDS.keys()
    for kind in after:
        for other, others in after.items():
            for piece in others:
                assert NEXT_KINDS[kind](Seen("", "a", piece)) == (kind == other), (kind, piece)
