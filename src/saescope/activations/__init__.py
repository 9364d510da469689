"""Activations: harvested into a store on disk, or streamed straight from the model, in shuffled batches."""

from saescope.activations.documents import StoredDocument
from saescope.activations.estimate import Plan, readable_bytes, readable_seconds
from saescope.activations.exclusions import SINK_RATIO, Exclusions, KeptRule
from saescope.activations.harvesting import Progress, harvest
from saescope.activations.manifest import Counts, Manifest, Request, ShardRecord
from saescope.activations.memory import parse_bytes
from saescope.activations.model_stream import ModelStream
from saescope.activations.shards import STORE_DTYPES, Shard
from saescope.activations.statistics import Moments, PointStatistics
from saescope.activations.store import Store
from saescope.activations.store_stream import StoreStream
from saescope.activations.stream import ActivationSource, RowLabels

__all__ = [
    "SINK_RATIO",
    "STORE_DTYPES",
    "ActivationSource",
    "Counts",
    "Exclusions",
    "KeptRule",
    "Manifest",
    "ModelStream",
    "Moments",
    "Plan",
    "PointStatistics",
    "Progress",
    "Request",
    "RowLabels",
    "Shard",
    "ShardRecord",
    "Store",
    "StoreStream",
    "StoredDocument",
    "harvest",
    "parse_bytes",
    "readable_bytes",
    "readable_seconds",
]
