"""A model loaded here is asked as its chat template wants it."""

from __future__ import annotations

import pytest
import torch
from tests.conftest import train_byte_tokenizer
from tests.measured import tiny_lm

from saescope.errors import ModelError
from saescope.features.labels.chat import LocalModel
from saescope.lm import Generation, LanguageModel

TURNS = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<reply>{% endif %}"
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def asked(template: str | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What the model is given, decoded."""
    tokenizer = train_byte_tokenizer(bos=True)
    tokenizer.chat_template = template
    given: list[torch.Tensor] = []

    def generate(self: LanguageModel, prompts: torch.Tensor, **options: int) -> Generation:
        given.append(prompts)
        return Generation([[5]], ["yes"])

    monkeypatch.setattr(LanguageModel, "generate", generate)
    reply = LocalModel(tiny_lm(tokenizer)).reply("be brief", "what?", 3)
    assert (reply.text, reply.prompt_tokens, reply.completion_tokens) == ("yes", given[0].numel(), 1)
    return str(tokenizer.decode(given[0][0]))


def test_a_template_that_begins_a_text_itself_begins_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked("{{ bos_token }}" + TURNS, monkeypatch) == "<bos><system>be brief<user>what?<reply>"
    assert asked(None, monkeypatch) == "<bos>be brief\n\nwhat?\n\n"


def test_without_a_system_role_one_turn_says_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert asked(NO_SYSTEM + TURNS, monkeypatch) == "<user>be brief\n\nwhat?<reply>"


def test_a_template_that_refuses_everything_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=r"the chat template of tiny refuses a prompt \(never\)"):
        asked("{{ raise_exception('never') }}", monkeypatch)
