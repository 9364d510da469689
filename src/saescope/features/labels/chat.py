"""A language model that answers prompts, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from saescope.lm import LanguageModel


@dataclass(frozen=True)
class Reply:
    """A model's answer; tokens as the model counts them, 0 where it does not say."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0


class ChatModel(Protocol):
    """`name` identifies the model in records. `at_once`: how many threads may ask it together."""

    @property
    def name(self) -> str: ...

    @property
    def at_once(self) -> int: ...

    def reply(self, system: str, prompt: str, max_tokens: int) -> Reply:
        """ModelError, in one line, where no answer can be had."""
        ...


class LocalModel:
    """A model loaded here, asked greedily and one prompt at a time."""

    def __init__(self, lm: LanguageModel) -> None:
        self._lm = lm
        self.name = lm.name
        self.at_once = 1

    def reply(self, system: str, prompt: str, max_tokens: int) -> Reply:
        text = self._rendered(system, prompt)
        found = self._lm.generate(text, max_new_tokens=max_tokens)
        return Reply(found.texts[0], len(self._lm.tokenizer(text)["input_ids"]), len(found.tokens[0]))

    def _rendered(self, system: str, prompt: str) -> str:
        if not getattr(self._lm.tokenizer, "chat_template", None):
            return f"{system}\n\n{prompt}\n\n"
        turns = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        return str(self._lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
