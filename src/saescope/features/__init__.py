"""Who fires where: the strongest contexts of every feature, and the index of all of them."""

from saescope.features.contexts import Context, ContextTable, FeatureContexts
from saescope.features.index import FeatureIndex, StoreSource, TextSource, build_index
from saescope.features.passages import Passages
from saescope.features.sample import spread_over_densities
from saescope.features.store_pass import check_store, top_contexts

__all__ = [
    "Context",
    "ContextTable",
    "FeatureContexts",
    "FeatureIndex",
    "Passages",
    "StoreSource",
    "TextSource",
    "build_index",
    "check_store",
    "spread_over_densities",
    "top_contexts",
]
