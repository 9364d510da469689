"""Sparse probing: how well a few latents tell labelled texts and tokens apart, beside dimensions, a dense probe and random
latents. METRICS.md "Probing"; what each number means is in docs/probing.md."""

from saescope.evaluation.probing.labelled_sets import COLUMNS, LabelledSet, read_labelled_sets
from saescope.evaluation.probing.measuring import ProbingOptions, measure

__all__ = ["COLUMNS", "LabelledSet", "ProbingOptions", "measure", "read_labelled_sets"]
