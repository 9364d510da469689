"""Interventions on features: a feature's decoder direction added to what the model computes."""

from saescope.steering.adding import AddFeature, Addition, added
from saescope.steering.perplexity import continuation_perplexity

__all__ = ["AddFeature", "Addition", "added", "continuation_perplexity"]
