"""Measuring coders on held-out text: metrics, the model's behaviour with the coder in it, controls, intervals."""

from saescope.evaluation.conventions import CONVENTIONS, Convention, convention, measure_as
from saescope.evaluation.definitions import BY_KEY, CONTROLS, METRICS, Metric
from saescope.evaluation.evaluation import SCHEMA, Evaluation, record
from saescope.evaluation.part import Estimate, Part, Score
from saescope.evaluation.run import evaluate
from saescope.evaluation.setting import Setting
from saescope.evaluation.stability import stability
from saescope.evaluation.store_contexts import contexts_from_store
from saescope.evaluation.subject import Subject
from saescope.evaluation.suite import CORE, PARTS, PartKind, chosen_parts, measure_parts
from saescope.evaluation.text_activations import ActivationCache, TextActivations

__all__ = [
    "BY_KEY",
    "CONTROLS",
    "CONVENTIONS",
    "CORE",
    "METRICS",
    "PARTS",
    "SCHEMA",
    "ActivationCache",
    "Convention",
    "Estimate",
    "Evaluation",
    "Metric",
    "Part",
    "PartKind",
    "Score",
    "Setting",
    "Subject",
    "TextActivations",
    "chosen_parts",
    "contexts_from_store",
    "convention",
    "evaluate",
    "measure_as",
    "measure_parts",
    "record",
    "stability",
]
