"""A language model that answers prompts, wherever it runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from saescope.errors import ModelError

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
        tokens = self._tokens(system, prompt)
        found = self._lm.generate(torch.tensor([tokens]), max_new_tokens=max_tokens)
        return Reply(found.texts[0], len(tokens), len(found.tokens[0]))

    def _tokens(self, system: str, prompt: str) -> list[int]:
        tokenizer = self._lm.tokenizer
        if not getattr(tokenizer, "chat_template", None):
            return list(tokenizer(f"{system}\n\n{prompt}\n\n")["input_ids"])
        # A template writes the special tokens that it wants.
        return list(tokenizer(self._rendered(system, prompt), add_special_tokens=False)["input_ids"])

    def _rendered(self, system: str, prompt: str) -> str:
        together = [{"role": "user", "content": f"{system}\n\n{prompt}"}]
        apart = [{"role": "system", "content": system}, {"role": "user", "content": prompt}]
        reason = ""
        # Some templates (Gemma's first ones) know no system role.
        for turns in (apart, together):
            try:
                return str(self._lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"the chat template of {self.name} refuses a prompt ({reason}); take another model")
