"""What the model loses when a reconstruction stands in for its activations: CE and KL.

Only kept positions are replaced, and only the predictions made from kept positions count: those whose next token is a real
one of the same sequence. Probabilities are computed from the logits in float32, a few hundred positions at a time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saescope.coders import SparseCoder, put
from saescope.evaluation.documents import DocumentSums
from saescope.features import Passages
from saescope.lm import LanguageModel

# Positions whose probabilities over the vocabulary are held at once, in elements.
_CHUNK_ELEMENTS = 2**24


@dataclass(frozen=True)
class Predictions:
    """The model's own predictions from the kept positions of a batch.

    where [batch, seq]: the positions predicted from. target [n]: the token that follows each. document [n]: whose they are.
    log_p [n, vocab]: float32 log-probabilities of the unedited model. ce [n]: their cross-entropy, in nats.
    """

    where: Bool[Tensor, "batch seq"]
    target: Int[Tensor, "n"]
    document: Int[Tensor, "n"]
    log_p: Float[Tensor, "n vocab"]
    ce: Float[Tensor, "n"]

    @staticmethod
    def of(
        logits: Float[Tensor, "batch seq vocab"], passages: Passages, kept: Bool[Tensor, "batch seq"]
    ) -> Predictions:
        following = torch.full_like(passages.tokens, -1)
        following[:, :-1] = passages.tokens[:, 1:]
        where = kept.cpu() & (following >= 0)
        target = following[where].to(logits.device)
        log_p = logits[where.to(logits.device)].float().log_softmax(-1)
        ce = -log_p.gather(1, target[:, None]).squeeze(1)
        return Predictions(where, target, passages.document[where], log_p, ce)

    def cross_entropy(self, logits: Float[Tensor, "batch seq vocab"]) -> Float[Tensor, "n"]:
        """Of other logits at the same positions and targets."""
        return torch.cat(
            [-other.gather(1, target[:, None]).squeeze(1) for _, other, target in self._chunks(logits)]
            or [self.ce.new_zeros(0)]
        )

    def compare(self, logits: Float[Tensor, "batch seq vocab"]) -> tuple[Float[Tensor, "n"], Float[Tensor, "n"]]:
        """CE of other logits, and KL(model's own ‖ other)."""
        ce, kl = [self.ce.new_zeros(0)], [self.ce.new_zeros(0)]
        for own, other, target in self._chunks(logits):
            ce.append(-other.gather(1, target[:, None]).squeeze(1))
            terms = other.neg_().add_(own).mul_(own.exp())
            # A token the model itself rules out (-inf) adds nothing, whatever the other says of it.
            kl.append(terms.masked_fill_(own == -torch.inf, 0.0).sum(1))
        return torch.cat(ce), torch.cat(kl)

    def _chunks(self, logits: Tensor):  # type: ignore[no-untyped-def]
        rows = logits[self.where.to(logits.device)]
        step = max(1, _CHUNK_ELEMENTS // logits.shape[-1])
        for start in range(0, rows.shape[0], step):
            piece = slice(start, start + step)
            yield self.log_p[piece], rows[piece].float().log_softmax(-1), self.target[piece]


class SplicedRuns:
    """Runs of one batch with other values at a coder's writes.

    Where the model can be started at the point, the blocks before it are not computed again.
    """

    def __init__(
        self, lm: LanguageModel, passages: Passages, activations: Mapping[str, Float[Tensor, "b s d"]]
    ) -> None:
        self.lm, self.activations = lm, activations
        self.tokens = passages.tokens.clamp(min=0)
        self.attention_mask = passages.real.long()

    def logits(
        self, coder: SparseCoder, kept: Bool[Tensor, "batch seq"], values: Float[Tensor, "n_kept d_out"]
    ) -> Float[Tensor, "batch seq vocab"]:
        """Logits with `values` in place of what the coder writes, at kept positions."""
        point = coder.writes[0].point
        if len(coder.writes) == 1 and self.lm.can_start_at(point):
            original = self.activations[point]
            changed = original.index_put((kept.to(original.device),), values.to(original))
            run = self.lm.run(self.tokens, attention_mask=self.attention_mask, logits=True, start=(point, changed))
        else:
            edits = put(coder, kept, values)
            run = self.lm.run(self.tokens, attention_mask=self.attention_mask, logits=True, edits=edits)
        assert run.logits is not None
        return run.logits


def metrics(sums: DocumentSums) -> dict[str, float | None]:
    """By METRICS.md's names, from sums per document of `ce_orig`, `ce_zero`, `ce_mean` (may lack), `ce`, `kl` over
    `targets` predictions. Empty where nothing was predicted."""
    if "ce" not in sums or not float(sums["targets"].sum()):
        return {}
    n = float(sums["targets"].sum())

    def mean(name: str) -> float | None:
        return float(sums[name].sum()) / n if name in sums else None

    ce_orig, ce_zero, ce_mean, ce_sae = mean("ce_orig"), mean("ce_zero"), mean("ce_mean"), mean("ce")
    assert ce_orig is not None
    assert ce_sae is not None
    return {
        "ce_orig": ce_orig,
        "ce_zero": ce_zero,
        "ce_mean": ce_mean,
        "ce_sae": ce_sae,
        "ce_recovered": recovered(ce_orig, ce_zero, ce_sae),
        "ce_recovered_mean": recovered(ce_orig, ce_mean, ce_sae),
        "ce_increase": ce_sae - ce_orig,
        "kl": mean("kl"),
    }


def recovered(ce_orig: float, ce_ablated: float | None, ce_sae: float) -> float | None:
    """(CE_ablated - CE_sae) / (CE_ablated - CE_orig); None where ablation costs nothing, or was not run."""
    if ce_ablated is None or ce_ablated == ce_orig:
        return None
    return (ce_ablated - ce_sae) / (ce_ablated - ce_orig)
