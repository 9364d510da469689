"""Many coders at a glance: a row for each, and their numbers against the layer they stand at."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from saescope.evaluation import BY_KEY, Evaluation
from saescope.lm import Point, common_layer
from saescope.reports.escaping import visible
from saescope.reports.plots import Figure, Line
from saescope.reports.table import Cell, Numbers, table

# Fewer layers are no curve.
LEAST_LAYERS = 3
# A control that damages the model more than ablation does would otherwise flatten everything above it.
_LOWEST_RECOVERED = -0.5
_OWN = ("l0", "fvu_centered", "ce_recovered_mean", "dead_fraction")
_OF_CONTROLS = ("fvu_centered", "ce_recovered_mean")
CONTROL_NAMES = {"frozen_random": "random coder", "pca": "PCA", "neurons": "own dimensions"}


def layer_of(evaluation: Evaluation) -> int | None:
    """The layer at which a coder writes; None for one that writes at several, or at a point without a layer."""
    return common_layer(evaluation.coder["writes"])


def by_layer(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Ordered by layer, those of one layer as given; unchanged where there is nothing to show against layers."""
    if not has_layers(evaluations):
        return list(evaluations)
    return sorted(evaluations, key=lambda evaluation: _or_last(layer_of(evaluation)))


def has_layers(evaluations: Sequence[Evaluation]) -> bool:
    return len({layer_of(evaluation) for evaluation in evaluations} - {None}) >= LEAST_LAYERS


def coders_table(evaluations: Sequence[Evaluation]) -> str:
    """A row a coder: its own numbers with intervals, then those of the controls that were measured."""
    controls = [
        name
        for name in CONTROL_NAMES
        if any("absent" not in evaluation.controls.get(name, {"absent": ""}) for evaluation in evaluations)
    ]
    columns = ["layer", *(BY_KEY[key].label for key in _OWN)]
    columns += [f"{BY_KEY[key].label}, {CONTROL_NAMES[name]}" for key in _OF_CONTROLS for name in controls]
    rows = []
    for evaluation in evaluations:
        layer = layer_of(evaluation)
        cells = [Cell("–" if layer is None else str(layer))]
        cells += [_own(evaluation, key) for key in _OWN]
        cells += [
            Cell(BY_KEY[key].format(evaluation.controls.get(name, {}).get(key)))
            for key in _OF_CONTROLS
            for name in controls
        ]
        rows.append(Numbers(evaluation.name, places(evaluation), cells))
    return table("Coders one below the other, on the same tokens", "coder", columns, rows, n_bold=1 + len(_OWN))


def places(evaluation: Evaluation) -> str:
    """`mlp_in.3 → mlp_out.3`, or the one point of an SAE."""
    reads, writes = (", ".join(evaluation.coder[key]) for key in ("reads", "writes"))
    return reads if reads == writes else f"{reads} → {writes}"


def layer_plots(evaluations: Sequence[Evaluation]) -> str:
    """FVU, CE recovered, L0 and dead latents against the layer, for each kind of coder that stands at several layers."""
    kinds: dict[str, list[Evaluation]] = {}
    for evaluation in by_layer(evaluations):
        if layer_of(evaluation) is not None:
            kinds.setdefault(_kind(evaluation), []).append(evaluation)
    parts = []
    for kind, members in kinds.items():
        if len({layer_of(member) for member in members}) < 2:
            continue
        heading = f"<h3>{visible(kind)}</h3>" if len(kinds) > 1 else ""
        figures = "".join(figure.svg() for figure in _figures(kind, members))
        parts.append(f'{heading}<div class="plots">{figures}</div>')
    return "".join(parts)


def _figures(kind: str, members: Sequence[Evaluation]) -> list[Figure]:
    alone = len({layer_of(member) for member in members}) == len(members)
    shared = "Several coders of a layer are one point, their mean, with a bar from the lowest to the highest."
    notes = {
        "ce_recovered_mean": f"Below {_LOWEST_RECOVERED} a point is drawn at the edge. Where ablation costs the model little, "
        "this is a ratio of two small numbers.",
        "dead_fraction": "Latents that never fired on these tokens.",
    }
    figures = []
    for key in ("fvu_centered", "ce_recovered_mean", "l0", "dead_fraction"):
        metric = BY_KEY[key]
        lines = [_curve("coder", members, key, None)]
        lines += [_curve(label, members, key, name) for name, label in CONTROL_NAMES.items()]
        figures.append(
            Figure(
                f"{metric.label} by layer",
                "layer",
                _summary(f"{metric.label} of {kind}", lines[0].points),
                lines=lines if key != "l0" else lines[:1],
                note=" ".join(filter(None, ["" if alone else shared, notes.get(key, "")])),
                whole_x=True,
                lowest=_LOWEST_RECOVERED if key == "ce_recovered_mean" else None,
            )
        )
    return figures


def _curve(label: str, members: Sequence[Evaluation], key: str, control: str | None) -> Line:
    """A point a layer: coders that differ in what their kind does not say, such as the seed, are no course over layers."""
    found: dict[int, list[float]] = {}
    for member in members:
        value = (member.coder if control is None else member.controls.get(control, {})).get(key)
        layer = layer_of(member)
        if value is not None and layer is not None:
            found.setdefault(layer, []).append(float(value))
    points = [(float(layer), fmean(values)) for layer, values in found.items()]
    ends = [(min(values), max(values)) if len(values) > 1 else None for values in found.values()]
    return Line(label, points, marks=True, ends=ends)


def _summary(what: str, curve: Sequence[tuple[float, float]]) -> str:
    if not curve:
        return f"{what}: not measured."
    low, high = min(curve, key=lambda point: point[1]), max(curve, key=lambda point: point[1])
    return f"{what} lies between {low[1]:.3g} at layer {low[0]:.0f} and {high[1]:.3g} at layer {high[0]:.0f}."


def _kind(evaluation: Evaluation) -> str:
    """What coders of different layers have in common: architecture, points without their layers, size, scalar options."""
    coder = evaluation.coder
    reads, writes = ("+".join(_without_layer(point) for point in coder[key]) for key in ("reads", "writes"))
    at = reads if reads == writes else f"{reads} → {writes}"
    options = [
        f"{key} {value}" for key, value in sorted(coder["options"].items()) if isinstance(value, int | float | str)
    ]
    return ", ".join(
        [f"{coder['architecture']} {coder['kind'].replace('_', ' ')} at {at}", f"{coder['d_sae']} latents", *options]
    )


def _without_layer(point: str) -> str:
    return Point.parse(point).name if common_layer([point]) is not None else point


def _own(evaluation: Evaluation, key: str) -> Cell:
    metric, interval = BY_KEY[key], evaluation.intervals["coder"].get(key)
    shown = "" if interval is None else f"{metric.format(interval[0])} – {metric.format(interval[1])}"
    return Cell(metric.format(evaluation.coder.get(key)), shown)


def _or_last(layer: int | None) -> int:
    return layer if layer is not None else 10**9
