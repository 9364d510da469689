"""The feature index: who fires where, on disk, in both directions."""

from saescope.features.index.build import build_index, coder_fingerprint
from saescope.features.index.manifest import IndexManifest
from saescope.features.index.reader import ExampleGroup, FeatureIndex, FiringFeatures, Firings
from saescope.features.index.source import Source, StoreSource, TextSource

__all__ = [
    "ExampleGroup",
    "FeatureIndex",
    "FiringFeatures",
    "Firings",
    "IndexManifest",
    "Source",
    "StoreSource",
    "TextSource",
    "build_index",
    "coder_fingerprint",
]
