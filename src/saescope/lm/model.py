"""A language model whose activations can be captured and edited at named hook points."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from typing import Any, cast

import torch
from interp_engine import EagerModel, HookManager, special_token_ids
from interp_engine.attn_scores import capture_attn_scores
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from saescope.errors import ModelError, UsageError
from saescope.lm.devices import resolve_device, resolve_dtype
from saescope.lm.edits import Edit, Positions, Run, padding_mask
from saescope.lm.generation import Continuation, Generation, Sampler, continue_rows, rows_of
from saescope.lm.hooks import EverythingSeen, RunHooks, differentiable_from
from saescope.lm.identity import tokenizer_fingerprint, weights_fingerprint
from saescope.lm.output_lens import OutputLens, output_lens, refusal
from saescope.lm.point_patterns import PointNames
from saescope.lm.point_table import PointTable
from saescope.lm.points import ATTENTION_MAPS, Point
from saescope.lm.resuming import check_reachable, skipping, tuple_length_of
from saescope.lm.sources import load_engine, wrap
from saescope.lm.streaming import stream_rows

Start = tuple[str, Float[Tensor, "batch seq d"]]


class LanguageModel:
    """Any Hugging Face causal language model, frozen and in evaluation mode.

    One run at a time: hooks sit on the model's modules, so runs from several threads wait for one another.
    """

    def __init__(self, engine: EagerModel, *, spec: str, name: str) -> None:
        self.spec = spec
        self.name = name
        self.hf_model: nn.Module = engine.hf_model
        self.tokenizer = cast(PreTrainedTokenizerBase, engine.tokenizer)
        self.n_layers = int(engine.n_layers)
        self.d_model = int(engine.d_model)
        self.vocab_size = int(engine.vocab_size)
        # Those too that only the tokenizer's file marks as special, as the heads of a chat's turns.
        marked = {number for number, token in engine.tokenizer.added_tokens_decoder.items() if token.special}
        self.special_ids = frozenset(special_token_ids(engine.tokenizer)) | marked
        self._engine = engine
        self._points = PointTable(engine, name)
        self._accepts = frozenset(inspect.signature(engine.hf_model.forward).parameters)
        self._widths: dict[Point, int] = {}
        self._startable: dict[Point, bool] = {}
        self._tuple_length: int | None = None
        self._lock = threading.Lock()
        self._running_thread: int | None = None

    @classmethod
    def load(
        cls, spec: str, *, dtype: str | torch.dtype = "auto", device: str | torch.device = "auto"
    ) -> LanguageModel:
        """A demo name (`smollm2`, `gemma3-270m`), a hub id, a folder or a `.gguf` file.

        `dtype` auto is bfloat16 where the device has it natively, else float32; `device` auto is CUDA, else MPS,
        else CPU. ModelError or AssetError, in one line, when the model cannot be had.
        """
        where = resolve_device(device)
        engine, name = load_engine(spec, resolve_dtype(dtype, where), where)
        return cls(engine, spec=spec, name=name)

    @classmethod
    def from_hf(
        cls, hf_model: nn.Module, tokenizer: PreTrainedTokenizerBase, *, name: str = "in-memory"
    ) -> LanguageModel:
        """Wrap a model that is already in memory; its parameters are frozen and it is set to evaluation mode."""
        return cls(wrap(hf_model, tokenizer, name), spec=name, name=name)

    @property
    def device(self) -> torch.device:
        return next(self.hf_model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.hf_model.parameters()).dtype

    def identity(self) -> dict[str, Any]:
        """What a record keeps of the model, as JSON.

        `weights` and `tokenizer` are fingerprints: two models are the same where these and `dtype` are equal,
        whatever `spec` they were loaded by.
        """
        return {
            "spec": self.spec,
            "name": self.name,
            "architecture": type(self.hf_model).__name__,
            "n_layers": self.n_layers,
            "d_model": self.d_model,
            "vocab_size": self.vocab_size,
            "dtype": str(self.dtype).removeprefix("torch."),
            **self._fingerprints,
        }

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {
            "weights": weights_fingerprint(self.hf_model, self._engine.config),
            "tokenizer": tokenizer_fingerprint(self.tokenizer),
        }

    def points(self) -> list[str]:
        """Every hook point of this model, global ones first, then layer by layer."""
        return list(self._points.names)

    @cached_property
    def point_names(self) -> PointNames:
        """This model's points, against which expressions such as `resid_post.*` are expanded."""
        return PointNames(self._points.names, self.name, refuse=self.check_point)

    def check_point(self, point: str) -> Point:
        """The parsed point, or a UsageError with the nearest names that exist."""
        return self._points.check(point)

    def width(self, point: str) -> int:
        """The length of one token's vector at `point`; a one-token run where the architecture does not say."""
        parsed = self.check_point(point)
        if parsed.name in ATTENTION_MAPS:
            raise UsageError(f"{parsed} has no width: it is [batch, heads, query, key], as long as the sequence")
        if parsed not in self._widths:
            known = self._points.known_width(parsed)
            if known is None:
                token = torch.zeros(1, 1, dtype=torch.long)
                known = int(self.run(token, capture=[point]).activations[point].shape[-1])
            self._widths[parsed] = known
        return self._widths[parsed]

    @cached_property
    def output_lens(self) -> OutputLens:
        """The linear map from directions of the residual stream to output logits. ModelError where there is none."""
        return output_lens(self._engine, len(self.tokenizer), self.name)

    def lens_refusal(self, point: str) -> str | None:
        """Why directions at `point` have no output logits of their own, in one line; None where they have."""
        return refusal(self._engine, self.check_point(point).name)

    def run(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        capture: Sequence[str] = (),
        edits: Sequence[Edit] = (),
        attention_mask: Int[Tensor, "batch seq"] | None = None,
        logits: bool = False,
        grad: bool = False,
        start: Start | None = None,
    ) -> Run:
        """One forward pass that ends as soon as every capture and edit has happened, unless `logits` are wanted.

        `attention_mask` is 0 on padding, on whichever side it is. With `grad`, captured values and logits hang on one
        graph whose root is the embeddings (or the values of `start`). `start=("resid_post.L", values)` begins after
        block L: same result as an edit that puts `values` there, without computing the blocks before; see
        `can_start_at`.

        EditNeverFired when an edit's place was not reached, ModelError for wrong shapes, UsageError for wrong points.
        """
        tokens = self._checked_tokens(tokens)
        if start is not None and not self.can_start_at(start[0]):
            raise UsageError(f"a run of {self.name} cannot start at {start[0]}; substitute the values with an Edit")
        return self._run(tokens, capture, edits, attention_mask, logits=logits, grad=grad, start=start)

    def can_start_at(self, point: str) -> bool:
        """Whether `run(start=(point, …))` gives exactly the full run's values here; tried once on a few tokens."""
        parsed = self.check_point(point)
        if parsed.name != "resid_post":
            return False
        if parsed not in self._startable:
            self._startable[parsed] = self._resumes_exactly(parsed)
        return self._startable[parsed]

    def generate(
        self,
        prompts: Sequence[str] | Int[Tensor, "batch seq"],
        *,
        edits: Sequence[Edit] = (),
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        attention_mask: Int[Tensor, "batch seq"] | None = None,
    ) -> Generation:
        """Continue each prompt until its end-of-sequence token or `max_new_tokens`.

        Prompts given as text are tokenized as the tokenizer does by itself, with no chat template. Edits see every
        prompt position once and each new position as it comes. Row r samples with `seed + r`, or with its own seed where
        several are given.
        """
        self._check_length(max_new_tokens)
        rows = self._prompt_rows(prompts, attention_mask)
        hooks, continuation = self._continuation(rows, edits, Sampler(temperature, top_p, seed))
        with self._held(max(map(len, rows)) + max_new_tokens), HookManager() as manager, torch.no_grad():
            hooks.install(manager)
            new = continue_rows(continuation, len(rows), max_new_tokens)
        texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in new]
        return Generation(new, texts)

    def stream(
        self,
        prompts: Sequence[str] | Int[Tensor, "batch seq"],
        *,
        edits: Sequence[Edit] = (),
        max_new_tokens: int = 32,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | Sequence[int] = 0,
        attention_mask: Int[Tensor, "batch seq"] | None = None,
    ) -> Generator[list[int | None], None, None]:
        """`generate`, one step at a time: each prompt's next token, None for those that have ended.

        Arguments are checked at once, the model runs as the iterator is asked. It is held for each step only, so that
        streams of several threads take turns, and other runs come in between. Closing the iterator ends the generation.
        """
        self._check_length(max_new_tokens)
        rows = self._prompt_rows(prompts, attention_mask)
        hooks, continuation = self._continuation(rows, edits, Sampler(temperature, top_p, seed))
        n_tokens = max(map(len, rows)) + max_new_tokens
        return stream_rows(continuation, hooks, max_new_tokens, lambda: self._held(n_tokens))

    def _continuation(
        self, rows: Sequence[Sequence[int]], edits: Sequence[Edit], sampler: Sampler
    ) -> tuple[RunHooks, Continuation]:
        hooks = RunHooks(self._points, (), edits, grad=False, stop=False)
        continuation = Continuation(
            self.hf_model, self._accepts, hooks, rows, sampler=sampler, stop_ids=self._stop_ids, device=self.device
        )
        return hooks, continuation

    @staticmethod
    def _check_length(max_new_tokens: int) -> None:
        if max_new_tokens < 0:
            raise UsageError(f"max_new_tokens {max_new_tokens} is negative; use 0 or more")

    def _run(
        self,
        tokens: Int[Tensor, "batch seq"],
        capture: Sequence[str],
        edits: Sequence[Edit],
        attention_mask: Int[Tensor, "batch seq"] | None,
        *,
        logits: bool,
        grad: bool,
        start: Start | None,
    ) -> Run:
        hooks = RunHooks(self._points, capture, edits, grad=grad, stop=not logits)
        if not capture and not edits and not logits:
            return Run({}, None, {})
        mask = padding_mask(tokens, attention_mask)
        hooks.positions, hooks.padded = Positions.of(tokens, mask), mask is not None
        arguments: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
        if mask is not None:
            arguments["attention_mask"] = mask.long()
            if "position_ids" in self._accepts:
                arguments["position_ids"] = hooks.positions.index.clamp(min=0)
        output = None
        with ExitStack() as stack:
            stack.enter_context(self._exclusive())
            stack.enter_context(self._errors_in_one_line(tokens.shape[1]))
            stack.enter_context(torch.set_grad_enabled(grad))
            manager = stack.enter_context(HookManager())
            if grad:
                differentiable_from(manager, self._engine.arch.embed)
            if start is not None:
                stack.enter_context(self._started(hooks, start, [*capture, *(edit.point for edit in edits)]))
            if hooks.attention_maps:
                stack.enter_context(self._attention_maps(hooks, grad=grad))
            hooks.install(manager)
            try:
                output = self.hf_model(**arguments)
            except EverythingSeen:
                return Run(hooks.activations, None, hooks.fired)
        hooks.check_all_fired()
        return Run(hooks.activations, output.logits if logits else None, hooks.fired)

    @contextmanager
    def _started(self, hooks: RunHooks, start: Start, asked: Sequence[str]) -> Iterator[None]:
        point, values = self.check_point(start[0]), start[1]
        for name in asked:
            check_reachable(self.check_point(name), point)
        expected = (*hooks.positions.index.shape, self.d_model)
        if tuple(values.shape) != expected or values.dtype != self.dtype or values.device != self.device:
            raise ModelError(
                f"start values are {tuple(values.shape)} {values.dtype} on {values.device}; "
                f"{point} takes {expected} {self.dtype} on {self.device}"
            )
        if torch.is_grad_enabled() and not values.requires_grad:
            values = values.detach().requires_grad_(True)
        last = self._engine.resolve_point(point.name, point.layer)[0]
        blocks = list(self._engine.arch.decoder_layers)
        with skipping(blocks[: blocks.index(last) + 1], values, self._tuple_length):
            yield

    @contextmanager
    def _attention_maps(self, hooks: RunHooks, *, grad: bool) -> Iterator[None]:
        """Eager attention for as long as the run lasts: the fused kernels never form these matrices."""
        model = cast(Any, self.hf_model)
        before = model.config._attn_implementation
        layers = [tap.point.layer for tap in hooks.attention_maps if tap.point.name == "attn_scores"]
        try:
            if before != "eager":
                model.set_attn_implementation("eager")
            with capture_attn_scores(self._engine, layers, detach=not grad) as hooks.scores:
                yield
        finally:
            if before != "eager":
                model.set_attn_implementation(before)

    def _resumes_exactly(self, point: Point) -> bool:
        tokens = torch.arange(14, device=self.device).reshape(2, 7) * 7919 % self.vocab_size
        name = str(point)
        returned: list[object] = []
        handle = self._engine.resolve_point(point.name, point.layer)[0].register_forward_hook(
            lambda module, args, output: returned.append(output)
        )
        try:
            values = self._run(tokens.flip(1), [name], (), None, logits=False, grad=False, start=None).activations[name]
        finally:
            handle.remove()
        substitute = Edit(name, lambda old, positions: values)
        full = self._run(tokens, (), [substitute], None, logits=True, grad=False, start=None).logits
        try:
            self._tuple_length = tuple_length_of(returned[0])
            resumed = self._run(tokens, (), (), None, logits=True, grad=False, start=(name, values)).logits
        except Exception:
            # Whatever the model's later blocks miss of the earlier ones, the answer is no.
            return False
        assert full is not None
        assert resumed is not None
        return torch.equal(full, resumed)

    def _checked_tokens(self, tokens: Tensor) -> Int[Tensor, "batch seq"]:
        if tokens.ndim != 2 or tokens.is_floating_point() or tokens.numel() == 0:
            raise ModelError(
                f"tokens have shape {tuple(tokens.shape)} and dtype {tokens.dtype}; give whole numbers, [batch, seq]"
            )
        low, high = int(tokens.min()), int(tokens.max())
        if low < 0 or high >= self.vocab_size:
            raise ModelError(
                f"token id {low if low < 0 else high} is not in {self.name}'s vocabulary of {self.vocab_size}; "
                "tokenize with this model's tokenizer"
            )
        return tokens.to(self.device, torch.long)

    def _prompt_rows(
        self, prompts: Sequence[str] | Int[Tensor, "batch seq"], attention_mask: Int[Tensor, "batch seq"] | None
    ) -> list[list[int]]:
        if isinstance(prompts, Tensor):
            tokens = self._checked_tokens(prompts)
            return rows_of(tokens, padding_mask(tokens, attention_mask))
        if isinstance(prompts, str):
            prompts = [prompts]
        if attention_mask is not None:
            raise UsageError("attention_mask goes with prompts given as tokens; text is padded as it needs")
        if not prompts:
            raise UsageError("no prompts given; give at least one")
        rows = [list(self.tokenizer(prompt)["input_ids"]) for prompt in prompts]
        for prompt, row in zip(prompts, rows, strict=True):
            if not row:
                raise UsageError(f"prompt {prompt!r} has no tokens, so there is nothing to continue")
        return rows

    @property
    def stop_ids(self) -> frozenset[int]:
        """The tokens that end a generation."""
        return self._stop_ids

    @cached_property
    def _stop_ids(self) -> frozenset[int]:
        stated = [
            getattr(getattr(self.hf_model, "generation_config", None), "eos_token_id", None),
            getattr(self._engine.config, "eos_token_id", None),
            self.tokenizer.eos_token_id,
        ]
        ids = [one for value in stated for one in (value if isinstance(value, list) else [value])]
        return frozenset(int(one) for one in ids if one is not None)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if self._running_thread == threading.get_ident():
            raise ModelError("a run was started inside another run's edit; run the model beforehand and use the result")
        with self._lock:
            self._running_thread = threading.get_ident()
            try:
                yield
            finally:
                self._running_thread = None

    @contextmanager
    def _held(self, n_tokens: int) -> Iterator[None]:
        with self._exclusive(), self._errors_in_one_line(n_tokens):
            yield

    @contextmanager
    def _errors_in_one_line(self, n_tokens: int) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError:
            raise ModelError(f"out of memory on {self.device}; use fewer or shorter sequences at once") from None
        except IndexError as error:
            # A model with learned positions looks them up in a table that ends.
            limit = getattr(self._engine.config, "max_position_embeddings", None)
            if limit is None or n_tokens <= limit:
                raise
            raise ModelError(
                f"{n_tokens} tokens are more than the {limit} that {self.name} has positions for"
            ) from error
