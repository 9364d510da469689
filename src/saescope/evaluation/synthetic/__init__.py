"""Activations built from known features, and whether coders find them."""

from saescope.evaluation.synthetic.config import (
    PRESETS,
    CorrelationConfig,
    HierarchyConfig,
    MagnitudeConfig,
    Preset,
    SyntheticConfig,
    ToyConfig,
    ZipfRates,
    preset,
)
from saescope.evaluation.synthetic.controls import chance, oracle
from saescope.evaluation.synthetic.ground_truth import GroundTruth, Sample
from saescope.evaluation.synthetic.recovery import METRICS, Recovery, recovery
from saescope.evaluation.synthetic.stream import POINT, SyntheticStream
from saescope.evaluation.synthetic.trial import RESULT, TrialRequest, trial

__all__ = [
    "METRICS",
    "POINT",
    "PRESETS",
    "RESULT",
    "CorrelationConfig",
    "GroundTruth",
    "HierarchyConfig",
    "MagnitudeConfig",
    "Preset",
    "Recovery",
    "Sample",
    "SyntheticConfig",
    "SyntheticStream",
    "ToyConfig",
    "TrialRequest",
    "ZipfRates",
    "chance",
    "oracle",
    "preset",
    "recovery",
    "trial",
]
