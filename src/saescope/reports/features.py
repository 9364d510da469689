"""Features of an index on one self-contained page: label, output tokens, examples, histogram, relations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from saescope.features import FeatureIndex
from saescope.features.exports import ExportedLabel, chosen_features
from saescope.reports.escaping import visible
from saescope.reports.page import document
from saescope.reports.plots import Bars, Figure
from saescope.reports.tokens import context_html
from saescope.whole_files import write_whole

# Examples of each group on a page; the first few of the strongest stand open.
_EXAMPLES = 8
_OPEN = 4
_RELATED = 5


def features_page(
    index: FeatureIndex, features: Sequence[int], labels: Mapping[int, ExportedLabel] | None = None
) -> str:
    """One HTML page on these features, in their order. It loads nothing and runs no script. UsageError for a feature that the
    index does not have."""
    chosen = chosen_features(index, features)
    labels = labels or {}
    articles = "".join(_article(index, feature, labels, set(chosen)) for feature in chosen)
    name = index.manifest.coder.name
    only = f"Feature {chosen[0]}" if len(chosen) == 1 else f"{len(chosen)} features"
    lead = (
        f"<p>{visible(index.manifest.coder.architecture)} {visible(index.manifest.coder.kind)} at "
        f"{visible(', '.join(index.manifest.coder.writes))} of {visible(str(index.manifest.model.get('name', 'a model')))}; "
        f"{index.d_sae:,} features over {index.n_tokens:,} tokens.</p>"
        '<p class="quiet">Shade is activation, as a share of the feature\'s strongest; the peak token is bold and underlined. '
        "Point at a shaded token, or tab to a peak, for its value. The strongest examples may be far clearer than the usual "
        "ones: look at the weaker groups too.</p>"
    )
    footer = "<p>Made by saescope; this file loads nothing and runs no script.</p>"
    return document(f"{only} of {name}", f"{only} of {name}", f'{lead}<div class="features">{articles}</div>', footer)


def write_features_page(
    index: FeatureIndex, path: str | Path, features: Sequence[int], labels: Mapping[int, ExportedLabel] | None = None
) -> Path:
    """Write the page, whole or not at all."""
    return write_whole(Path(path), features_page(index, features, labels))


def _article(index: FeatureIndex, feature: int, labels: Mapping[int, ExportedLabel], here: set[int]) -> str:
    label = labels.get(feature)
    named = f": {visible(label.text)}" if label is not None and label.text else ""
    return (
        f'<article class="feature" id="feature-{feature}"><header><h2>Feature {feature}{named}</h2>'
        f'<span class="quiet">{_facts(index, feature, label)}</span></header>'
        f"{_outputs(index, feature)}{_examples(index, feature)}{_related(index, feature, labels, here)}"
        f"{_histogram(index, feature)}</article>"
    )


def _facts(index: FeatureIndex, feature: int, label: ExportedLabel | None) -> str:
    density, count = float(index.density[feature]), int(index.count[feature])
    if not count:
        return "never fires on this text"
    facts = [
        f"fires on {density * 100:.3g} % of tokens ({count:,})",
        f"max {index.maximum[feature]:.3g}",
        f"mean {index.mean[feature]:.3g}",
    ]
    if index.has("form"):
        facts.insert(0, visible(index.manifest.names["forms"][int(index.arrays["form"][feature])]))
    if label is not None and label.score is not None:
        facts.append(f"{visible(label.kind)} label, held-out balanced accuracy {label.score:.2f}")
    return " · ".join(facts)


def _outputs(index: FeatureIndex, feature: int) -> str:
    lines = []
    for what, name in (("raises", "lens_top"), ("lowers", "lens_bottom")):
        if index.has(name):
            pieces = [index.pieces([token])[0] for token in index.arrays[name][feature].tolist()]
            shown = " ".join(f"<bdi><code>{visible(piece)}</code></bdi>" for piece in pieces)
            lines.append(f'<p class="quiet tokens">{what} {shown}</p>')
    return "".join(lines)


def _examples(index: FeatureIndex, feature: int) -> str:
    parts = []
    maximum = float(index.maximum[feature])
    for number, group in enumerate(index.examples(feature)):
        items = []
        for position in group.positions[:_EXAMPLES]:
            context = index.context(feature, position)
            title = index.documents[context.document].title if context.document >= 0 else ""
            items.append(context_html(context, index.token_text.pieces, maximum, title))
        open_items = items[:_OPEN] if number == 0 else []
        rest = items[len(open_items) :]
        if open_items:
            parts.append(f'<ol class="contexts">{"".join(open_items)}</ol>')
        if rest:
            name = "more of the strongest" if number == 0 else f"firings, strongest first: {group.name}"
            summary = f"{visible(name)} ({group.low:.3g} – {group.high:.3g})"
            parts.append(f'<details><summary>{summary}</summary><ol class="contexts">{"".join(rest)}</ol></details>')
    return "".join(parts)


def _related(index: FeatureIndex, feature: int, labels: Mapping[int, ExportedLabel], here: set[int]) -> str:
    lines = []
    for what, measure, others in _relations(index, feature):
        shown = [f"{_link(other, labels, here)} ({measure} {value:.2f})" for other, value in others[:_RELATED]]
        if shown:
            lines.append(f"<li>{what} {', '.join(shown)}</li>")
    return f'<ul class="quiet related">{"".join(lines)}</ul>' if lines else ""


def _relations(index: FeatureIndex, feature: int) -> Iterator[tuple[str, str, list[tuple[int, float]]]]:
    """What relates, by which measure, and to whom, as far as the index knows."""
    if index.has("coactive"):
        yield "fires with", "phi", _listed(index, "coactive", "coactive_phi", feature)
    if index.has("nearest_decoder"):
        yield "writes like", "cosine", _listed(index, "nearest_decoder", "nearest_decoder_cosine", feature)
    yield "splits into", "share within it", index.splits.into(feature)
    yield "part of", "share within that", index.splits.of(feature)


def _listed(index: FeatureIndex, name: str, values: str, feature: int) -> list[tuple[int, float]]:
    both = zip(index.arrays[name][feature].tolist(), index.arrays[values][feature].tolist(), strict=True)
    return [(other, value) for other, value in both if other >= 0]


def _link(feature: int, labels: Mapping[int, ExportedLabel], here: set[int]) -> str:
    label = labels.get(feature)
    name = f"{feature} {visible(label.text)}" if label is not None and label.text else str(feature)
    return f'<a href="#feature-{feature}">{name}</a>' if feature in here else name


def _histogram(index: FeatureIndex, feature: int) -> str:
    if not int(index.count[feature]):
        return ""
    counts = index.arrays["histogram"][feature].tolist()
    edges = (index.arrays["histogram_edges"] * index.maximum[feature]).tolist()
    first = next((number for number, count in enumerate(counts) if count), 0)
    return Figure(
        "Activations",
        "activation",
        f"Histogram of {int(index.count[feature]):,} activations, in bins of equal ratio.",
        bars=[Bars("firings", edges[first:], counts[first:])],
        y_label="tokens",
        log_x=True,
        limits=(edges[first], edges[-1]),
    ).svg()
