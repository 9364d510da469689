"""Training: configuration, objective, the loop over coders, checkpoints, and the run folder."""

from saescope.training.config import CoderConfig, TrainConfig
from saescope.training.defaults import batch_size as batch_size_for
from saescope.training.objective import AuxTerm, Loss, objective
from saescope.training.resolve import resolve
from saescope.training.run import require_batches, train
from saescope.training.trainer import Progress, Trainer, Watcher

__all__ = [
    "AuxTerm",
    "CoderConfig",
    "Loss",
    "Progress",
    "TrainConfig",
    "Trainer",
    "Watcher",
    "batch_size_for",
    "objective",
    "require_batches",
    "resolve",
    "train",
]
