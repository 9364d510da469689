"""Core numbers by the formulas of two other packages, for comparison with what was published through them.

    saebench    sae-bench 0.6's `core` evaluation
    saelens     sae-lens 6.54's `evals`

They differ from saescope's own (`definitions`): attention sinks count, zero ablation is everywhere (special positions
included), several numbers are means over batches, and sae-bench replaces special positions too. What is odd in them is
kept, because that is the point:

- `mse` of sae-bench is divided by the tokens twice; its `explained_variance` subtracts, for the mean's share of Σ‖x‖², the
  square of the mean of x² (over dimensions and batches), a number of another unit, so it can be negative or nearly that of
  an uncentred variance.
- `explained_variance_legacy` is a mean over tokens about the batch's mean; `relative_reconstruction_bias` a mean over batches.
- `l1` does not weigh by decoder rows; sae-bench's is signed.
- KL in sae-bench goes through log(softmax), which is NaN where that underflows; here it is taken from log-softmax.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.coders import SparseCoder, put
from saescope.errors import TextError, UsageError, nearest
from saescope.evaluation.held_out import held_out_text
from saescope.evaluation.part import Estimate, Part, Score
from saescope.evaluation.setting import Setting
from saescope.evaluation.subject import Subject
from saescope.lm import Edit, LanguageModel


@dataclass(frozen=True)
class Convention:
    """Whose formulas. special_replaced: the coder's output stands at special positions too. signed_l1, mse_twice,
    odd_variance: as sae-bench has them (see above)."""

    name: str
    title: str
    special_replaced: bool
    signed_l1: bool
    mse_twice: bool
    odd_variance: bool


CONVENTIONS = {
    "saebench": Convention("saebench", "As sae-bench 0.6 computes it", True, True, True, True),
    "saelens": Convention("saelens", "As sae-lens 6.54 computes it", False, False, False, False),
}
# Sequences of a batch: numbers that are means over batches depend on it a little.
BATCH = 16
_TINY_NORM = 1e-4

MEANINGS: dict[str, str] = {
    "explained_variance": "What the package calls so.",
    "explained_variance_legacy": "Mean over tokens of 1 − ‖e‖²/‖x − x̄_batch‖².",
    "mse": "Mean ‖e‖² per token, as the package scales it.",
    "cossim": "Mean cosine of x and x̂.",
    "l2_norm_in": "Mean ‖x‖.",
    "l2_norm_out": "Mean ‖x̂‖.",
    "l2_ratio": "Mean ‖x̂‖/‖x‖.",
    "relative_reconstruction_bias": "Mean over batches of E‖x̂‖²/E[x·x̂].",
    "l0": "Mean number of f ≠ 0.",
    "l1": "Mean sum of f, decoder rows as they are.",
    "ce_loss_score": "CE recovered against zero ablation everywhere.",
    "ce_loss_with_ablation": "CE with zeros everywhere.",
    "ce_loss_with_sae": "CE with the coder in the model.",
    "ce_loss_without_sae": "The model's own CE.",
    "kl_div_score": "Share of zero ablation's KL that is won back.",
    "kl_div_with_ablation": "KL with zeros everywhere.",
    "kl_div_with_sae": "KL with the coder in the model.",
}


def convention(name: str) -> Convention:
    """The convention of that name, or a UsageError with those that exist."""
    if name not in CONVENTIONS:
        raise UsageError(f"no convention {name!r}; there are {', '.join(CONVENTIONS)}{nearest(name, CONVENTIONS)}")
    return CONVENTIONS[name]


def measure_as(
    rule: Convention, subjects: Sequence[Subject], setting: Setting, max_tokens: int | None = None
) -> list[Part]:
    """A Part for each subject: its numbers by that convention on whole sequences of held-out text, about `max_tokens`."""
    trained = {document for subject in subjects for document in subject.coder.metadata.trained_documents}
    options = subjects[0].sequence_options()
    text = held_out_text(setting.corpus, setting.lm.tokenizer, options, trained, max_tokens)
    whole = [torch.from_numpy(one.tokens).long() for one in text.sequences if len(one) == options.context]
    if not whole:
        raise TextError(
            f"no sequence of {options.context} tokens in the text, and {rule.name}'s batches hold whole ones; use longer text"
        )
    batches = [torch.stack(whole[start : start + BATCH]) for start in range(0, len(whole), BATCH)]
    parts = []
    for subject in subjects:
        numbers = numbers_as(rule, subject.on(setting.lm.device).coder, setting.lm, batches, setting.lm.special_ids)
        scores = tuple(
            # Where the formula divides by zero, as the cosine of a zero reconstruction does, the package gives NaN.
            Score(key, key, Estimate(value if math.isfinite(value) else None), meaning=MEANINGS[key], digits=4)
            for key, value in numbers.items()
        )
        lead = f"{len(whole):,} sequences of {options.context} tokens, {BATCH} a batch; special tokens ignored, sinks counted."
        facts = {"sequences": len(whole), "context": options.context, "batch": BATCH}
        parts.append(Part(rule.name, rule.title, lead, scores, facts=facts))
    return parts


@torch.no_grad()
def numbers_as(
    rule: Convention,
    coder: SparseCoder,
    lm: LanguageModel,
    batches: Sequence[Int[Tensor, "batch seq"]],
    ignored: frozenset[int],
) -> dict[str, float]:
    """The package's numbers, by its names, on these token batches. `ignored`: ids of tokens that do not count."""
    sums = _Sums(rule)
    for tokens in batches:
        counted = ~torch.isin(tokens, torch.tensor(sorted(ignored), dtype=tokens.dtype))
        points = list(dict.fromkeys(part.point for part in (*coder.reads, *coder.writes)))
        run = lm.run(tokens, capture=points, logits=True)
        where = counted.to(lm.device)
        x = torch.cat([run.activations[part.point][where] for part in coder.reads], 1).float()
        y = torch.cat([run.activations[part.point][where] for part in coder.writes], 1).float()
        codes = coder.encode(x)
        sums.reconstruction(y, coder.decode(codes, x), codes.values, codes.n_tokens)
        replaced = torch.ones_like(counted) if rule.special_replaced else counted
        read = torch.cat([run.activations[part.point][replaced.to(lm.device)] for part in coder.reads], 1).float()
        spliced = lm.run(tokens, logits=True, edits=put(coder, replaced, coder(read))).logits
        zeros = [Edit(part.point, lambda values, positions: torch.zeros_like(values)) for part in coder.writes]
        ablated = lm.run(tokens, logits=True, edits=zeros).logits
        assert run.logits is not None
        assert spliced is not None
        assert ablated is not None
        sums.behaviour(tokens, counted, run.logits, spliced, ablated)
    return sums.numbers()


@dataclass
class _Sums:
    """Values by token (concatenated over batches) or by batch, whose means are the numbers."""

    rule: Convention
    by_token: dict[str, list[Tensor]] = field(default_factory=dict)
    square: list[Tensor] = field(default_factory=list)
    residual: list[Tensor] = field(default_factory=list)
    square_by_dim: list[Tensor] = field(default_factory=list)
    mean: Tensor | float = 0.0

    def add(self, name: str, values: Tensor) -> None:
        self.by_token.setdefault(name, []).append(values.flatten().cpu().double())

    def reconstruction(
        self, x: Float[Tensor, "n d"], x_hat: Float[Tensor, "n d"], values: Float[Tensor, "nnz"], n_tokens: int
    ) -> None:
        x, x_hat = x.cpu().double(), x_hat.cpu().double()
        error2 = (x - x_hat).square().sum(1)
        norm, out = x.norm(dim=1), x_hat.norm(dim=1)
        self.add("explained_variance_legacy", 1 - error2 / (x - x.mean(0)).square().sum(1))
        self.add("mse", error2 / n_tokens if self.rule.mse_twice else error2)
        self.add("cossim", (x * x_hat).sum(1) / (norm * out))
        self.add("l2_norm_in", norm)
        self.add("l2_norm_out", out)
        self.add("l2_ratio", out / torch.where(norm < _TINY_NORM, 1.0, norm))
        self.add("relative_reconstruction_bias", out.square().mean() / (x * x_hat).sum(1).mean())
        # Their means over tokens are those of the batches' sums, weighed by their tokens.
        fired = (values != 0).sum() / max(1, n_tokens)
        strength = (values if self.rule.signed_l1 else values.abs()).cpu().double().sum() / max(1, n_tokens)
        self.add("l0", fired.cpu().expand(n_tokens))
        self.add("l1", strength.cpu().expand(n_tokens))
        self.square.append(x.square().sum(1))
        self.residual.append(error2)
        self.square_by_dim.append(x.square().mean(0))
        self.mean = self.mean + x.sum(0)

    def behaviour(
        self,
        tokens: Int[Tensor, "batch seq"],
        counted: Bool[Tensor, "batch seq"],
        logits: Float[Tensor, "batch seq vocab"],
        spliced: Float[Tensor, "batch seq vocab"],
        ablated: Float[Tensor, "batch seq vocab"],
    ) -> None:
        own = logits.float().log_softmax(-1)
        target = tokens[:, 1:, None].to(own.device)
        predicts = counted[:, :-1]
        for ce, kl, other in (("ce_loss_without_sae", "", logits), *_edited(spliced, ablated)):
            log_p = other.float().log_softmax(-1)
            losses = -log_p[:, :-1].gather(2, target).squeeze(2)
            self.add(ce, losses[predicts.to(losses.device)])
            if kl:
                terms = torch.nn.functional.kl_div(log_p, own, reduction="none", log_target=True).sum(-1)
                self.add(kl, terms[counted.to(terms.device)])

    def numbers(self) -> dict[str, float]:
        found = {name: float(torch.cat(values).mean()) for name, values in self.by_token.items()}
        if self.rule.odd_variance:
            square = torch.stack([part.mean() for part in self.square]).mean()
            residual = torch.stack([part.mean() for part in self.residual]).mean()
            variance = square - torch.cat(self.square_by_dim).mean().square()
        else:
            every = torch.cat(self.square)
            square, residual = every.mean(), torch.cat(self.residual).mean()
            assert isinstance(self.mean, Tensor)
            variance = square - (self.mean / every.numel()).square().sum()
        found["explained_variance"] = float(1 - residual / variance)
        won = found["ce_loss_with_ablation"] - found["ce_loss_with_sae"]
        found["ce_loss_score"] = won / (found["ce_loss_with_ablation"] - found["ce_loss_without_sae"])
        won = found["kl_div_with_ablation"] - found["kl_div_with_sae"]
        found["kl_div_score"] = won / found["kl_div_with_ablation"]
        return {name: found[name] for name in MEANINGS}


def _edited(spliced: Tensor, ablated: Tensor) -> tuple[tuple[str, str, Tensor], ...]:
    return (
        ("ce_loss_with_sae", "kl_div_with_sae", spliced),
        ("ce_loss_with_ablation", "kl_div_with_ablation", ablated),
    )
