"""Activations built from known features, and whether coders find them."""

from saescope.evaluation.synthetic.config import (
    PRESETS,
    CorrelationConfig,
    HierarchyConfig,
    MagnitudeConfig,
    SyntheticConfig,
    ToyConfig,
    ZipfRates,
    preset,
)
from saescope.evaluation.synthetic.controls import chance, oracle
from saescope.evaluation.synthetic.ground_truth import GroundTruth, Sample
from saescope.evaluation.synthetic.recovery import METRICS, Recovery, recovery
from saescope.evaluation.synthetic.stream import POINT, SyntheticStream

__all__ = [
    "METRICS",
    "POINT",
    "PRESETS",
    "CorrelationConfig",
    "GroundTruth",
    "HierarchyConfig",
    "MagnitudeConfig",
    "Recovery",
    "Sample",
    "SyntheticConfig",
    "SyntheticStream",
    "ToyConfig",
    "ZipfRates",
    "chance",
    "oracle",
    "preset",
    "recovery",
]
