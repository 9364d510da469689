"""The parts of a coder's section: sentence, cards, table, plots, features."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

from saescope.evaluation import BY_KEY, CONTROLS, METRICS, Evaluation, Metric
from saescope.features import spread_over_densities
from saescope.reports.escaping import visible
from saescope.reports.layers import CONTROL_NAMES, places
from saescope.reports.plots import Bars, Figure
from saescope.reports.table import Cell, Heading, Numbers, table
from saescope.reports.tokens import SHADES, Pieces, context_html
from saescope.reports.training_plots import training_figures

N_FEATURES = 24
_SHOWN_AT_ONCE = 4
_CARDS = ("fvu_centered", "ce_recovered_mean", "l0", "dead_fraction")
_COMPARED = ("fvu_centered", "fvu_per_dim", "ce_recovered_mean", "ce_recovered", "kl", "l0", "dead_fraction")
_KINDS = {"sae": "SAE", "skip_transcoder": "skip transcoder"}


def lead(evaluation: Evaluation) -> str:
    """Who was measured on what, in two sentences."""
    coder, facts = evaluation.coder, evaluation.evaluation
    model = facts["model"].get("name") or facts["model"].get("spec")
    trained = f", trained on {coder['trained_tokens']:,} tokens" if coder.get("trained_tokens") else ""
    known = facts["trained_documents"] == "known"
    unseen = "it never saw" if known else "(it does not record which documents trained it)"
    kind = _KINDS.get(coder["kind"], coder["kind"])
    return (
        f'<p class="lead">{visible(coder["architecture"])} {visible(kind)} at {visible(places(evaluation))} of '
        f"{visible(str(model))}: {coder['d_sae']:,} latents for {coder['d_in']:,} dimensions{trained}. "
        f"Measured on {facts['kept_tokens']:,} tokens of {facts['documents']:,} documents {unseen}.</p>"
    )


def in_a_line(evaluation: Evaluation) -> str:
    """The main numbers, for a section that is folded."""
    shown = (f"{BY_KEY[key].label} {BY_KEY[key].format(evaluation.coder.get(key))}" for key in _CARDS)
    return visible(" · ".join([places(evaluation), *shown]))


def cards(evaluation: Evaluation) -> str:
    """Four numbers, with the controls' beside them."""
    items = []
    for key in _CARDS:
        metric, value = BY_KEY[key], evaluation.coder.get(key)
        beside = [
            f'<div class="beside"><span>{CONTROL_NAMES[name]}</span> <b>{metric.format(control[key])}</b></div>'
            for name, control in evaluation.controls.items()
            if control.get(key) is not None and key != "l0"
        ]
        interval = _interval(evaluation, "coder", key)
        items.append(
            f'<li><div class="name">{visible(metric.label)}</div><div class="number">{metric.format(value)}</div>'
            + (f'<div class="range">95 %: {interval}</div>' if interval else "")
            + "".join(beside)
            + "</li>"
        )
    return f'<ul class="cards">{"".join(items)}</ul>'


def metrics_table(evaluation: Evaluation) -> str:
    """All numbers with a line on each, the controls beside them, and the other conventions folded away."""
    usual = [metric for metric in METRICS if metric.group != "other conventions"]
    other = [metric for metric in METRICS if metric.group == "other conventions"]
    absent = "".join(
        f'<p class="quiet">Control {visible(CONTROL_NAMES[name])}: not measured. {visible(control["absent"])}.</p>'
        for name, control in evaluation.controls.items()
        if "absent" in control
    )
    notes = "".join(
        f"<p class='quiet'><b>{visible(CONTROL_NAMES[name])}</b>: {visible(CONTROLS[name])}"
        f"{' It ' + visible(control['note']) + '.' if 'note' in control else ''}</p>"
        for name, control in evaluation.controls.items()
        if "absent" not in control
    )
    return (
        _table(evaluation, usual)
        + notes
        + absent
        + "<details><summary>Explained variance in other conventions</summary>"
        + '<p class="quiet">For comparison with numbers published elsewhere; none of them is the one above.</p>'
        + _table(evaluation, other)
        + "</details>"
    )


def _table(evaluation: Evaluation, metrics: Sequence[Metric]) -> str:
    columns = ["coder", *(name for name, control in evaluation.controls.items() if "absent" not in control)]
    names = [evaluation.name if name == "coder" else CONTROL_NAMES[name] for name in columns]
    rows: list[Heading | Numbers] = []
    for group, members in groupby(metrics, key=lambda metric: metric.group):
        rows.append(Heading(group))
        for metric in members:
            better = f" {metric.better.capitalize()} is better." if metric.better else ""
            cells = [_cell(evaluation, name, metric) for name in columns]
            rows.append(Numbers(metric.label, metric.meaning + better, cells))
    return table("Metrics with controls and 95 % intervals", "metric", names, rows, n_bold=1)


def _cell(evaluation: Evaluation, name: str, metric: Metric) -> Cell:
    row: dict[str, Any] = evaluation.coder if name == "coder" else evaluation.controls[name]
    return Cell(metric.format(row.get(metric.key)), _interval(evaluation, name, metric.key))


def comparison(evaluations: Sequence[Evaluation]) -> str:
    """The main numbers of several coders side by side."""
    rows: list[Heading | Numbers] = [
        Numbers(metric.label, metric.meaning, [_cell(evaluation, "coder", metric) for evaluation in evaluations])
        for metric in (BY_KEY[key] for key in _COMPARED)
    ]
    names = [evaluation.name for evaluation in evaluations]
    return table("Coders side by side, on the same tokens", "on the same tokens", names, rows, n_bold=len(names))


def _interval(evaluation: Evaluation, name: str, key: str) -> str:
    found = evaluation.intervals.get(name, {}).get(key)
    if found is None:
        return ""
    metric = BY_KEY[key]
    return f"{metric.format(found[0])} – {metric.format(found[1])}"


def training(evaluation: Evaluation) -> str:
    figures = training_figures(evaluation.history)
    if not figures:
        return '<h3>Training</h3><p class="quiet">This coder carries no record of its training.</p>'
    return f'<h3>Training</h3><div class="plots">{"".join(figure.svg() for figure in figures)}</div>'


def distributions(evaluation: Evaluation) -> str:
    """Densities and decoder cosines, each over the random control's outline."""
    coder, random = evaluation.coder, evaluation.controls.get("frozen_random", {})
    density, cosine = coder["density_histogram"], coder["decoder_cosine_histogram"]
    figures = [
        Figure(
            "How often latents fire",
            "fraction of tokens (logarithmic)",
            f"Histogram of the density of {sum(density['counts']):,} latents; {density['absent']:,} never fired.",
            bars=_bars(evaluation.name, density, random.get("density_histogram")),
            y_label="latents",
            power_of_ten_x=True,
            limits=_occupied(density["edges"], density["counts"], whole=True),
            note=f"{density['absent']:,} of {coder['d_sae']:,} latents never fired on {coder['n_tokens']:,} tokens and are "
            f"not drawn. One firing is {1 / max(1, coder['n_tokens']):.1e}.",
        ),
        Figure(
            "How alike decoder directions are",
            "largest cosine to another latent",
            f"Histogram over {sum(cosine['counts']):,} latents of the largest cosine between its decoder row and another's.",
            bars=_bars(evaluation.name, cosine, random.get("decoder_cosine_histogram")),
            y_label="latents",
            limits=_occupied(cosine["edges"], cosine["counts"], whole=False),
            note="Latents near 1 are duplicates. The outline is what random directions give by chance.",
        ),
    ]
    return f'<h3>Latents</h3><div class="plots wide">{"".join(figure.svg() for figure in figures)}</div>'


def _bars(name: str, own: dict[str, Any], random: dict[str, Any] | None) -> list[Bars]:
    bars = [Bars(name, own["edges"], own["counts"])]
    if random is not None and sum(random["counts"]):
        # The control's histogram may be of a sample; drawn at the coder's total, so that shapes compare.
        factor = sum(own["counts"]) / sum(random["counts"])
        scaled = [count * factor for count in random["counts"]]
        bars.append(Bars(CONTROL_NAMES["frozen_random"], random["edges"], scaled, outline=True))
    return bars


def _occupied(edges: list[float], counts: list[int], *, whole: bool) -> tuple[float, float]:
    """The part of the axis worth drawing: up to its end, from just before the first occupied bin."""
    first = next((index for index, count in enumerate(counts) if count), 0)
    low = edges[first]
    return (float(int(low // 1)) if whole else min(0.0, low), edges[-1])


def features(evaluation: Evaluation, pieces: Pieces, anchor: str, n: int = N_FEATURES) -> str:
    """Features spread over densities, with their strongest contexts."""
    table = evaluation.contexts
    chosen = spread_over_densities(table.density, n)
    if not chosen:
        return '<h3>Features</h3><p class="quiet">No latent fired on this text, so there is nothing to show.</p>'
    articles = []
    for latent in chosen:
        found = table.contexts(latent)
        maximum = float(table.maximum[latent])
        items = [context_html(one, pieces, maximum, _title(evaluation, one.document)) for one in found]
        rest = items[_SHOWN_AT_ONCE:]
        more = (
            f'<details><summary>{len(rest)} more</summary><ol class="contexts">{"".join(rest)}</ol></details>'
            if rest
            else ""
        )
        density = float(table.density[latent])
        articles.append(
            f'<article class="feature" id="{anchor}-feature-{latent}"><header><h4>Feature {latent}</h4>'
            f'<span class="quiet">fires on {_share(density)} of tokens · max {maximum:.3g} · '
            f"mean {float(table.mean[latent]):.3g}</span></header>"
            f'<ol class="contexts">{"".join(items[:_SHOWN_AT_ONCE])}</ol>{more}</article>'
        )
    key = "".join(f'<i class="a{shade}"></i>' for shade in range(1, SHADES + 1))
    return (
        f"<h3>Features</h3><p>{len(chosen)} of the {int((table.count > 0).sum()):,} features that fired, evenly spaced from "
        f"commonest to rarest, each with its strongest contexts in {visible(evaluation.contexts_from)} "
        f"({table.n_tokens:,} tokens; one context a sequence).</p>"
        f'<p class="quiet">Shade is activation, from weak <span class="key" aria-hidden="true">{key}</span> to the feature\'s '
        "strongest; the peak token is bold and underlined. Point at a shaded token, or tab to a peak, for its value. The "
        "number before a context is its peak. A feature's strongest contexts may be far clearer than its usual ones.</p>"
        f'<div class="features">{"".join(articles)}</div>'
    )


def _title(evaluation: Evaluation, document: int) -> str:
    return evaluation.titles[document] if 0 <= document < len(evaluation.titles) else ""


def _share(density: float) -> str:
    return f"{density * 100:.3g} %"
