"""Measuring coders on held-out text: metrics, the model's behaviour with the coder in it, controls, intervals."""

from saescope.evaluation.definitions import BY_KEY, CONTROLS, METRICS, Metric
from saescope.evaluation.evaluation import SCHEMA, Evaluation, record
from saescope.evaluation.run import evaluate
from saescope.evaluation.stability import stability
from saescope.evaluation.store_contexts import contexts_from_store
from saescope.evaluation.subject import Subject

__all__ = [
    "BY_KEY",
    "CONTROLS",
    "METRICS",
    "SCHEMA",
    "Evaluation",
    "Metric",
    "Subject",
    "contexts_from_store",
    "evaluate",
    "record",
    "stability",
]
