"""Features as Neuronpedia keeps them: a feature's JSON, and the files of its bulk import.

    OUT/{model}/{source}/release.jsonl, model.jsonl, sourceset.jsonl, source.jsonl
    OUT/{model}/{source}/features|activations|explanations/batch-N.jsonl.gz

A source is a layer and a set: `14-batchtopk-4k`. The import takes its columns from a file's first line and drops whatever later
lines have besides, without a word; so every line of a file has the same keys, empty where there is nothing to say.

A group of examples has the interval of activations [binMin, binMax] and `binContains`, the share of all tokens within; the
strongest examples have -1 for the first and last. Histograms are bars: as many values (the middle of each) as heights.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saescope.coders import SparseCoder
from saescope.errors import CoderError, UsageError
from saescope.features.exports.selection import ExportedLabel, chosen_features, whole_folder
from saescope.features.index import FeatureIndex, coder_fingerprint
from saescope.features.weights import logit_histogram, why_no_lens
from saescope.lm import common_layer, sae_lens_hook_name

if TYPE_CHECKING:
    from saescope.lm import LanguageModel

BATCH = 256
HISTOGRAM_BINS = 50
CORRELATED = 3
REACH = 32
"""Tokens of an example to either side of its peak."""
CREATOR = "clkht01d40000jv08hvalcvly"
"""Who rows belong to where no one is named: the account of Neuronpedia's own imports, which every installation has."""
_DIGITS = 6
_ID = re.compile(r"[^a-z0-9._-]+")

Record = dict[str, Any]


@dataclass(frozen=True)
class NeuronpediaSource:
    """What Neuronpedia calls the parts: model id, the set of coders this one is of, and its layer. Together `model/layer-set`
    names it in every address. creator: an account's id there."""

    model: str
    source_set: str
    layer: str
    release: str
    creator: str = CREATOR
    creator_name: str = "saescope"

    @classmethod
    def of(
        cls, index: FeatureIndex, *, model: str | None = None, source_set: str | None = None, release: str | None = None
    ) -> NeuronpediaSource:
        """Names from what the index records, where none is given. UsageError for one that an address cannot have."""
        coder = index.manifest.coder
        layer = common_layer(coder.writes)
        chosen_set = _checked("source set", source_set) if source_set else _plain(coder.name) or "saescope"
        chosen_model = (
            _checked("model", model) if model else _plain(str(index.manifest.model.get("name", ""))) or "model"
        )
        return cls(chosen_model, chosen_set, "0" if layer is None else str(layer), release or chosen_set)

    @property
    def id(self) -> str:
        return f"{self.layer}-{self.source_set}"


def _plain(name: str) -> str:
    """A name as addresses have it: of a path its last part, small letters, digits, `.`, `-` and `_`."""
    return _ID.sub("-", name.rsplit("/", 1)[-1].lower()).strip("-.")


def _checked(what: str, name: str) -> str:
    if _plain(name) != name:
        raise UsageError(f"{what} {name!r} cannot be part of an address; {_plain(name) or 'letters and digits'} can")
    return name


def feature_json(
    index: FeatureIndex,
    feature: int,
    source: NeuronpediaSource | None = None,
    *,
    label: ExportedLabel | None = None,
    coder: SparseCoder | None = None,
    lm: LanguageModel | None = None,
) -> Record:
    """A feature as Neuronpedia's API gives it, activations and explanation inside. coder: for its vector; lm with it: for the
    histogram of logits. CoderError and FeatureIndexError for others than the indexed coder and its model."""
    source = source or NeuronpediaSource.of(index)
    rows = _Rows(index, source, coder, lm)
    index.check_feature(feature)
    record = rows.feature(feature, rows.logit_histograms([feature]).get(feature))
    # What is the same for all of a feature's parts is said once.
    outer = ("id", "modelId", "layer", "index", "creatorId", "createdAt")
    record["activations"] = [
        {key: value for key, value in row.items() if key not in outer} for row in rows.activations(feature)
    ]
    record["explanations"] = []
    if label is not None and label.text:
        scores = (
            [] if label.score is None else [{"explanationScoreTypeName": "balanced_accuracy", "value": label.score}]
        )
        record["explanations"].append(
            {"description": label.text, "typeName": label.kind, "explanationModelName": None, "scores": scores}
        )
    return record


def write_neuronpedia(
    index: FeatureIndex,
    out: str | Path,
    features: Sequence[int] | None = None,
    *,
    source: NeuronpediaSource | None = None,
    labels: Mapping[int, ExportedLabel] | None = None,
    coder: SparseCoder | None = None,
    lm: LanguageModel | None = None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Write the bulk import's files and return the source's folder, `out`/model/source, there only when whole. All features
    that fire, or those named. `told(done, total)` counts features. OccupiedError where that folder holds something."""
    source = source or NeuronpediaSource.of(index)
    chosen = chosen_features(index, features)
    rows = _Rows(index, source, coder, lm)
    folder = Path(out) / source.model / source.id
    with whole_folder(folder) as into:
        for name, record in rows.about(len(chosen)).items():
            (into / f"{name}.jsonl").write_bytes(_lines([record]))
        for name in ("features", "activations", "explanations"):
            (into / name).mkdir()
        for number, start in enumerate(range(0, len(chosen), BATCH)):
            batch = chosen[start : start + BATCH]
            histograms = rows.logit_histograms(batch)
            _write(into / "features", number, (rows.feature(feature, histograms.get(feature)) for feature in batch))
            _write(into / "activations", number, (row for feature in batch for row in rows.activations(feature)))
            found = (rows.explanation(feature, labels[feature]) for feature in batch if labels and feature in labels)
            _write(into / "explanations", number, found)
            told(start + len(batch), len(chosen))
        if not any((into / "explanations").iterdir()):
            (into / "explanations").rmdir()
    return folder


def _write(folder: Path, number: int, records: Iterator[Record]) -> None:
    """A batch's file; none where there is nothing in it, for an empty one names no columns."""
    content = _lines(records)
    if content:
        (folder / f"batch-{number}.jsonl.gz").write_bytes(gzip.compress(content, 6, mtime=0))


def _lines(records: Iterator[Record] | Sequence[Record]) -> bytes:
    keys: list[str] | None = None
    lines = []
    for record in records:
        keys = keys or list(record)
        assert list(record) == keys, "every line of a file has the same keys"
        lines.append(_line(record))
    return b"".join(lines)


def _line(record: Record) -> bytes:
    line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
    try:
        if "\\u0000" not in line:
            return line.encode()
    except UnicodeEncodeError:
        pass
    # Hardly any text needs it, and looking at every string takes longer than all else.
    return (json.dumps(_storable(record), ensure_ascii=False, allow_nan=False) + "\n").encode()


def _storable(value: Any) -> Any:
    """Text as a database takes it: without NUL and lone surrogates."""
    if isinstance(value, str):
        return value.replace("\0", "\ufffd").encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {key: _storable(part) for key, part in value.items()}
    if isinstance(value, list) and value and not isinstance(value[0], float | int):
        return [_storable(part) for part in value]
    return value


class _Rows:
    """The rows of each table."""

    def __init__(
        self, index: FeatureIndex, source: NeuronpediaSource, coder: SparseCoder | None, lm: LanguageModel | None
    ) -> None:
        if coder is not None and coder_fingerprint(coder) != index.manifest.coder.fingerprint:
            raise CoderError(
                f"coder {coder.metadata.name or 'given'} is not the one that was indexed; load that, "
                f"{index.manifest.coder.name}"
            )
        if lm is not None:
            index.manifest.check_model(lm.identity())
        self.index, self.source, self.coder, self.lm = index, source, coder, lm
        self.created = index.manifest.created
        self._has_lens = coder is not None and lm is not None and why_no_lens(coder, lm) is None
        writes = index.manifest.coder.writes
        self._hook = sae_lens_hook_name(writes[0]) if len(writes) == 1 else None

    def about(self, n_features: int) -> dict[str, Record]:
        """Release, model, set and source: what the features belong to."""
        source, index = self.source, self.index
        creator = {"creatorId": source.creator, "createdAt": self.created}
        model, counts = index.manifest.model, index.manifest.counts
        name = str(model.get("name", source.model))
        what = f"{index.manifest.coder.architecture} {index.manifest.coder.kind}, {index.d_sae:,} features"
        release: Record = {
            "name": source.release,
            "description": f"{what}, at {', '.join(index.manifest.coder.writes)} of {name}",
            "descriptionShort": what,
            "urls": [],
            "creatorName": source.creator_name,
            "creatorNameShort": source.creator_name,
            "creatorEmail": None,
            "visibility": "PUBLIC",
            "isNewUi": False,
            "featured": False,
            "defaultSourceSetName": source.source_set,
            "defaultSourceId": source.id,
            "defaultUmapSourceIds": [],
            **creator,
        }
        of_model: Record = {
            "id": source.model,
            "instruct": bool(re.search(r"(instruct|chat|[-_]it)\b", name, re.IGNORECASE)),
            "displayNameShort": name,
            "displayName": name,
            "tlensId": None,
            "dimension": model.get("d_model"),
            "visibility": "PUBLIC",
            "defaultSourceSetName": source.source_set,
            "defaultSourceId": source.id,
            "inferenceEnabled": False,
            "layers": int(model.get("n_layers", 0)),
            "neuronsPerLayer": 0,
            "owner": "",
            "website": None,
            "updatedAt": self.created,
            **creator,
        }
        of_set: Record = {
            "modelId": source.model,
            "name": source.source_set,
            "hasDashboards": True,
            "visibility": "PUBLIC",
            "description": what,
            "type": index.manifest.coder.architecture,
            "creatorName": source.creator_name,
            "urls": [],
            "creatorEmail": None,
            "releaseName": source.release,
            "defaultOfModelId": None,
            "defaultRange": 1,
            "defaultShowBreaks": True,
            "showDfa": False,
            "showCorrelated": True,
            "showHeadAttribution": False,
            "showUmap": False,
            **creator,
        }
        of_source: Record = {
            "id": source.id,
            "modelId": source.model,
            "setName": source.source_set,
            "hasDashboards": True,
            "inferenceEnabled": False,
            "inferenceHosts": [],
            "saelensConfig": None,
            "saelensRelease": None,
            "saelensSaeId": None,
            "hfRepoId": None,
            "hfFolderId": None,
            "visibility": "PUBLIC",
            "defaultOfModelId": None,
            "hasUmap": False,
            "hasUmapLogSparsity": False,
            "hasUmapClusters": False,
            "num_prompts": counts.sequences,
            "num_tokens_in_prompt": round(counts.positions / max(1, counts.sequences)),
            "dataset": ", ".join(index.manifest.names.get("sources", [])) or None,
            "notes": f"{n_features:,} of {index.d_sae:,} features, over {counts.tokens:,} tokens; by saescope",
            **creator,
        }
        return {"release": release, "model": of_model, "sourceset": of_set, "source": of_source}

    def feature(self, feature: int, logits: tuple[NDArray[np.float64], NDArray[np.int64]] | None) -> Record:
        index = self.index
        values = index.firings(feature).values
        heights, middles = _bars(*np.histogram(values, HISTOGRAM_BINS)) if len(values) else ([], [])
        logit_heights, logit_middles = ([], []) if logits is None else _bars(logits[1], logits[0])
        vector = [] if self.coder is None else _numbers(self.coder.W_dec[feature].detach().float().cpu().numpy())
        partners, pearson, cosine = self._correlated(feature)
        return {
            "modelId": self.source.model,
            "layer": self.source.id,
            "index": str(feature),
            "creatorId": self.source.creator,
            "createdAt": self.created,
            "maxActApprox": _number(index.maximum[feature]),
            "hasVector": bool(vector),
            "vector": vector,
            "vectorLabel": None,
            "vectorDefaultSteerStrength": _number(index.maximum[feature]),
            "hookName": self._hook if vector else None,
            "topkCosSimIndices": self._filled("nearest_decoder", feature),
            "topkCosSimValues": self._beside("nearest_decoder", "nearest_decoder_cosine", feature),
            "neuron_alignment_indices": self._filled("neurons", feature),
            "neuron_alignment_values": self._beside("neurons", "neuron_weights", feature),
            "neuron_alignment_l1": self._beside("neurons", "neuron_shares", feature),
            "correlated_neurons_indices": [],
            "correlated_neurons_pearson": [],
            "correlated_neurons_l1": [],
            "correlated_features_indices": partners,
            "correlated_features_pearson": pearson,
            "correlated_features_l1": cosine,
            "neg_str": self._texts("lens_bottom", feature),
            "neg_values": self._beside("lens_bottom", "lens_bottom_logits", feature),
            "pos_str": self._texts("lens_top", feature),
            "pos_values": self._beside("lens_top", "lens_top_logits", feature),
            "frac_nonzero": _number(index.density[feature]),
            "freq_hist_data_bar_heights": heights,
            "freq_hist_data_bar_values": middles,
            "logits_hist_data_bar_heights": logit_heights,
            "logits_hist_data_bar_values": logit_middles,
            "decoder_weights_dist": [],
            "sourceSetName": self.source.source_set,
        }

    def activations(self, feature: int) -> Iterator[Record]:
        index = self.index
        groups = index.examples(feature)
        names = index.manifest.names["groups"]
        for group in groups:
            strongest = group.name == names[0]
            # Groups after the first are equal shares of a feature's firings.
            share = float(index.density[feature]) / max(1, len(names) - 1)
            for rank, position in enumerate(group.positions):
                context = index.context(feature, position, REACH, REACH)
                values = _numbers(np.array(context.activations))
                yield {
                    "id": self._id("activation", feature, group.name, rank),
                    "tokens": index.pieces(context.tokens),
                    "modelId": self.source.model,
                    "layer": self.source.id,
                    "index": str(feature),
                    "maxValue": max(values),
                    "maxValueTokenIndex": values.index(max(values)),
                    "minValue": min(values),
                    "values": values,
                    "creatorId": self.source.creator,
                    "createdAt": self.created,
                    "dataSource": index.documents[context.document].title if context.document >= 0 else None,
                    "dataIndex": str(position),
                    "dfaValues": [],
                    "dfaTargetIndex": None,
                    "dfaMaxValue": None,
                    "lossValues": [],
                    "logitContributions": None,
                    "binMin": -1.0 if strongest else _number(group.low),
                    "binMax": _number(group.high),
                    "binContains": -1.0 if strongest else _number(share),
                    "qualifyingTokenIndex": context.peak,
                }

    def explanation(self, feature: int, label: ExportedLabel) -> Record:
        measured = "" if label.score is None else f", held-out balanced accuracy {label.score:.2f}"
        return {
            "id": self._id("explanation", feature),
            "modelId": self.source.model,
            "layer": self.source.id,
            "index": str(feature),
            "description": label.text,
            "authorId": self.source.creator,
            # Types and explainer models are rows of other tables, which do not know ours.
            "typeName": None,
            "explanationModelName": None,
            "notes": f"{label.kind} label by saescope{measured}",
            "createdAt": self.created,
        }

    def logit_histograms(self, features: list[int]) -> dict[int, tuple[NDArray[np.float64], NDArray[np.int64]]]:
        if not self._has_lens or self.coder is None or self.lm is None:
            return {}
        found = logit_histogram(self.coder, self.lm, features, HISTOGRAM_BINS)
        return dict(zip(features, found, strict=True))

    def _correlated(self, feature: int) -> tuple[list[int], list[float], list[float]]:
        """The features that fire with it most, with the correlation and the cosine of activations over all tokens."""
        if not self.index.has("coactive"):
            return [], [], []
        partners = [int(other) for other in self.index.arrays["coactive"][feature][:CORRELATED] if other >= 0]
        own = self.index.firings(feature)
        pearson, cosine = [], []
        for other in partners:
            their = self.index.firings(other)
            _, here, there = np.intersect1d(own.positions, their.positions, assume_unique=True, return_indices=True)
            x, y = own.values.astype(np.float64), their.values.astype(np.float64)
            n, product = max(1, self.index.n_tokens), float(x[here] @ y[there])
            covariance = product / n - x.sum() / n * (y.sum() / n)
            spread = math.sqrt((x @ x / n - (x.sum() / n) ** 2) * (y @ y / n - (y.sum() / n) ** 2))
            pearson.append(_number(covariance / spread) if spread > 0 else 0.0)
            cosine.append(_number(product / math.sqrt((x @ x) * (y @ y))) if product > 0 else 0.0)
        return partners, pearson, cosine

    def _filled(self, name: str, feature: int) -> list[int]:
        if not self.index.has(name):
            return []
        return [int(other) for other in self.index.arrays[name][feature] if other >= 0]

    def _beside(self, name: str, values: str, feature: int) -> list[float]:
        """`values` at the places where `name` has something."""
        if not self.index.has(name) or not self.index.has(values):
            return []
        return _numbers(self.index.arrays[values][feature][self.index.arrays[name][feature] >= 0])

    def _texts(self, name: str, feature: int) -> list[str]:
        return [self.index.pieces([token])[0] for token in self._filled(name, feature)]

    def _id(self, *parts: object) -> str:
        """The same for the same row, so that importing again replaces; of the length and alphabet of ids there."""
        words = " ".join(map(str, (self.index.manifest.coder.fingerprint, self.source.model, self.source.id, *parts)))
        return "c" + hashlib.sha256(words.encode()).hexdigest()[:24]


def _bars(counts: NDArray[Any], edges: NDArray[Any]) -> tuple[list[int], list[float]]:
    return counts.astype(int).tolist(), _numbers((edges[1:] + edges[:-1]) / 2)


def _number(value: Any) -> float:
    return float(f"{float(value):.{_DIGITS}g}")


def _numbers(values: NDArray[Any]) -> list[float]:
    """As `_number`, all at once: a whole number over a power of ten, or times one, is the float nearest to the decimal."""
    values = values.astype(np.float64)
    size = np.abs(values)
    power = _DIGITS - 1 - np.floor(np.log10(np.where(size > 0, size, 1.0)))
    up, down = 10.0 ** np.clip(power, 0, 300), 10.0 ** np.clip(-power, 0, 300)
    rounded: list[float] = np.where(power >= 0, np.rint(values * up) / up, np.rint(values / down) * down).tolist()
    return rounded
