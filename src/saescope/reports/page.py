"""The page: one self-contained HTML file that asks the network for nothing and runs no script."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from saescope.evaluation import Evaluation
from saescope.reports import layers, parts, sections
from saescope.reports.escaping import visible
from saescope.reports.tokens import Pieces

GENERATOR = "saescope report"
# More coders than this are listed one below the other, their sections folded and with fewer features each, so that a page
# on every layer of a model stays one that a browser opens at once.
SIDE_BY_SIDE = 4
LEAST_FEATURES = 6
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def report_page(evaluations: Sequence[Evaluation], pieces: Pieces) -> str:
    """The whole page. `pieces` gives each token's text (`text.TokenText(tokenizer).pieces`)."""
    evaluations = layers.by_layer(evaluations)
    names = [evaluation.name for evaluation in evaluations]
    many = len(names) > SIDE_BY_SIDE
    title = f"{f'{len(names)} coders' if many else ', '.join(names)} — sparse coder report"
    navigation = _navigation(names) if len(names) > 1 else ""
    n_features = max(LEAST_FEATURES, sections.N_FEATURES * SIDE_BY_SIDE // max(len(names), SIDE_BY_SIDE))
    coders = "".join(
        _section(number, evaluation, pieces, n_features, folded=many) for number, evaluation in enumerate(evaluations)
    )
    overview = _overview(evaluations)
    heading = "Sparse coders compared" if len(names) > 1 else "Sparse coder report"
    return document(title, heading, f"{overview}{coders}", _footer(evaluations[0]), navigation)


def document(title: str, heading: str, content: str, footer: str, navigation: str = "") -> str:
    """A page around its content: no script, nothing from the network, the style sheet inside."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="generator" content="{GENERATOR}"><meta name="referrer" content="no-referrer">'
        f"<title>{visible(title)}</title><style>{_style()}</style></head><body>"
        '<a class="skip" href="#main">Skip to content</a>'
        f'<header class="top"><h1>{visible(heading)}</h1></header>{navigation}<main id="main">{content}</main>'
        f"<footer>{footer}</footer></body></html>\n"
    )


def _overview(evaluations: Sequence[Evaluation]) -> str:
    """Several coders together: side by side while they fit a page's width, else one below the other; by layer."""
    if len(evaluations) < 2:
        return ""
    together = ""
    if len(evaluations) <= SIDE_BY_SIDE:
        together = f"<h2>Side by side</h2>{sections.comparison(evaluations)}"
    elif not layers.has_layers(evaluations):
        together = f"<h2>One below the other</h2>{layers.coders_table(evaluations)}"
    if not layers.has_layers(evaluations):
        return together
    return f"{together}<h2>By layer</h2>{layers.coders_table(evaluations)}{layers.layer_plots(evaluations)}"


def _style() -> str:
    return files("saescope.reports").joinpath("style.css").read_text("utf-8")


def _anchor(number: int) -> str:
    return f"coder{number + 1}"


def _navigation(names: Sequence[str]) -> str:
    links = "".join(f'<li><a href="#{_anchor(number)}">{visible(name)}</a></li>' for number, name in enumerate(names))
    return f'<nav class="coders" aria-label="Coders"><ul>{links}</ul></nav>'


def _section(number: int, evaluation: Evaluation, pieces: Pieces, n_features: int, *, folded: bool) -> str:
    anchor = _anchor(number)
    heading = f'<h2 id="{anchor}-name">{visible(evaluation.name)}</h2>'
    content = (
        f"{sections.lead(evaluation)}{sections.cards(evaluation)}<h3>Numbers</h3>{sections.metrics_table(evaluation)}"
        f"{parts.sections(evaluation)}{sections.distributions(evaluation)}{sections.training(evaluation)}"
        f"{sections.features(evaluation, pieces, anchor, n_features)}"
    )
    if folded:
        content = f"<details><summary>{sections.in_a_line(evaluation)}</summary>{content}</details>"
    return f'<section id="{anchor}" aria-labelledby="{anchor}-name">{heading}{content}</section>'


def _footer(evaluation: Evaluation) -> str:
    facts: dict[str, Any] = evaluation.evaluation
    excluded = facts["excluded"]
    logits = facts["ce_dtype"]["logits"]
    of_parts = "; those of a part of the suite as it says" if evaluation.parts else ""
    return (
        f"<p>{facts['tokens']:,} tokens run; {excluded['special']:,} special tokens and {excluded['sink']:,} attention sinks "
        f"left out everywhere. Prediction loss over {facts['predictions']:,} targets, logits in {visible(logits)}, "
        f"probabilities in {visible(facts['ce_dtype']['probabilities'])}. Intervals: 95 %, "
        f"{facts['intervals']['resamples']:,} resamples of whole documents{of_parts}.</p>"
        "<p>Every number is also in metrics.json. Made by saescope; this file loads nothing and runs no script.</p>"
    )
