"""Features of an index as files that other tools read."""

from saescope.features.exports.neuronpedia import NeuronpediaSource, feature_json, write_neuronpedia
from saescope.features.exports.parquet import write_parquet
from saescope.features.exports.selection import ExportedLabel, chosen_features

__all__ = [
    "ExportedLabel",
    "NeuronpediaSource",
    "chosen_features",
    "feature_json",
    "write_neuronpedia",
    "write_parquet",
]
