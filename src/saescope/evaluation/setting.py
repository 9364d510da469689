"""What every part of the suite is given beside the coders."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from saescope.evaluation.text_activations import ActivationCache
from saescope.lm import LanguageModel
from saescope.progress import Progress, silent
from saescope.text import Corpus, Document


@dataclass(frozen=True)
class Setting:
    """The model, the text, labelled sets, and the activations that parts share.

    tasks: a folder of labelled sets, or None. examples: the most that a task, letter or class takes. seed: of every random
    choice. resamples: of bootstrap intervals. densities: of each coder's latents [d_sae], where the core has measured them.
    progress: told (stage, done, in all).
    """

    lm: LanguageModel
    corpus: Corpus | Iterable[Document]
    cache: ActivationCache
    tasks: Path | None = None
    examples: int = 1000
    seed: int = 0
    resamples: int = 1000
    densities: tuple[Float[Tensor, "d_sae"], ...] = ()
    progress: Progress = field(default=silent)
