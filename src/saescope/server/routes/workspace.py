"""What is served, and its long work."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from saescope.server import answers
from saescope.server.asking import CoderHere, ServedNow, sent
from saescope.server.evaluations import shown_metrics
from saescope.server.model_worker import ModelWorker
from saescope.server.plain_text import one_line
from saescope.server.served_coder import ServedCoder

router = APIRouter(tags=["workspace"])


@router.get("/workspace", response_model=answers.WorkspaceAnswer)
def workspace(served: ServedNow) -> Response:
    """Every coder with its numbers, the model's state, and long work under way."""
    from saescope import __version__

    served.workspace.refresh()
    worker = served.worker
    return sent(
        {
            "version": __version__,
            "title": served.workspace.title,
            "model": {
                "name": worker.lm.name if worker.lm is not None else worker.spec,
                "loaded": worker.lm is not None,
                "state": worker.state,
                "message": worker.message,
            },
            "coders": [coder_shown(coder, worker) for coder in list(served.workspace.coders.values())],
            "jobs": served.jobs.shown(),
        }
    )


@router.get("/jobs", response_model=list[answers.Job])
def jobs(served: ServedNow) -> Response:
    """Indexes being built and labels being made."""
    return sent(served.jobs.shown())


@router.post("/coders/{id}/label-job", response_model=answers.Job)
def label(asked: answers.LabelJobAsked, coder: CoderHere, served: ServedNow) -> Response:
    """Begin to label all features of a coder; one job a coder at a time."""
    return sent(served.jobs.label(coder, asked.kind))


def coder_shown(coder: ServedCoder, worker: ModelWorker) -> dict[str, Any]:
    """`answers.Coder`"""
    manifest = coder.index.manifest
    about, counts, labels = manifest.coder, manifest.counts, coder.labels
    metrics = shown_metrics(coder.metrics)
    # One model has many names: where a person named it, its weights say whose it is, once it is loaded.
    why_not = coder.why_not("" if worker.named else worker.spec, worker.lm)
    return {
        "id": coder.id,
        "name": one_line(coder.name),
        "architecture": about.architecture,
        "kind": about.kind,
        "reads": about.reads,
        "writes": about.writes,
        "d_in": about.d_in,
        "d_sae": about.d_sae,
        "levels": about.levels,
        "tokens": counts.tokens,
        "documents": len(coder.index.documents),
        "corpus": _corpus_name(manifest.corpus),
        "live": counts.live,
        "dead": about.d_sae - counts.live,
        "fvu_centered": metrics["fvu_centered"]["value"] if metrics and "fvu_centered" in metrics else None,
        "metrics": metrics,
        "labels": {"source": labels.source, "count": len(labels.by_feature)} if labels.by_feature else None,
        "first_feature": coder.first_feature,
        "forms": coder.forms,
        "can_run": not why_not,
        "why_not": one_line(why_not),
    }


def _corpus_name(corpus: dict[str, Any]) -> str:
    files = corpus.get("files")
    if isinstance(files, list):
        names = [str(one.get("name", "")) if isinstance(one, dict) else str(one) for one in files]
        shown = ", ".join(one_line(name) for name in names[:3])
        return shown + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return one_line(str(corpus.get("name") or corpus.get("spec") or corpus.get("kind") or ""))
