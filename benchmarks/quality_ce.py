"""How much of the model's prediction is left with each finished coder spliced in, by saescope's evaluation for all alike.

The other libraries' weights are loaded into saescope's own coders: the same formula, as `Trained.by_formula` has checked.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import saescope
from quality_cells import OURS, Result, name_of, results
from saescope.coders import make_architecture
from saescope.evaluation import Subject

# Where a library's rule for choosing latents is applied at inference.
ARCHITECTURE = {"topk": "topk", "threshold": "jumprelu", "gated": "gated", "relu": "standard"}
KEPT = ("ce_recovered_mean", "ce_recovered", "ce_increase", "kl", "fvu_centered", "l0")


def run(cells: Path, tokens: int) -> None:
    """Measure the first seed that is there of every cell that saw the whole text, if not yet measured; writes its ce.json.

    Only where a cell of saescope's is at the same place: it says on which text, at which positions.
    """
    first: dict[str, Result] = {}
    for cell in sorted(results(cells), key=lambda cell: cell.record["seed"]):
        if cell.record["passes"] >= 1:
            first.setdefault(name_of(cell.record | {"seed": 0}), cell)
    finished = first.values()
    wanted = [cell for cell in finished if not (cell.folder / "ce.json").exists()]
    ours = {_place(cell): cell for cell in finished if cell.record["library"] == OURS}
    subjects = [(cell, subject_of(cell, ours[_place(cell)])) for cell in wanted if _place(cell) in ours]
    if not subjects:
        return
    lm = saescope.LanguageModel.load(subjects[0][1].model_spec())
    corpus = saescope.Corpus.open("demo")
    measured = saescope.evaluate([subject for _, subject in subjects], lm, corpus, max_tokens=tokens, ce_tokens=tokens)
    for (cell, _), found in zip(subjects, measured, strict=True):
        record = {key: found.coder[key] for key in KEPT} | {"interval": found.intervals["coder"]["ce_recovered_mean"]}
        (cell.folder / "ce.json").write_text(json.dumps(record | {"tokens": tokens}))


def subject_of(cell: Result, like: Result) -> Subject:
    """A cell's coder, measured on the text and positions of saescope's coder at the same place."""
    own = Subject.of(like.folder / "run" / "coder")
    trained_here = cell.record["library"] == OURS
    coder = saescope.load(cell.folder / "run" / "coder") if trained_here else _coder_of(cell, own.coder)
    coder.metadata = own.coder.metadata.model_copy(update={"name": cell.folder.name})
    return replace(own, coder=coder)


def _coder_of(cell: Result, like: saescope.SparseCoder) -> saescope.SparseCoder:
    record, weights = cell.record, load_file(cell.folder / "weights.safetensors")
    kind = ARCHITECTURE[record["selection"]]
    options: dict[str, Any] = {"k": round(record["target_l0"])} if kind == "topk" else {}
    coder = saescope.SparseCoder(
        make_architecture(kind, record["d_sae"], options),
        like.reads,
        like.writes,
        skip="W_skip" in weights,
        apply_b_dec_to_input=record["subtracts_b_dec"],
    )
    with torch.no_grad():
        coder.W_enc_rows.copy_(weights.pop("W_enc").T)
        for name, value in weights.items():
            coder.extra({"b_gate": "b_enc"}.get(name, name)).copy_(value)
    return coder.eval().requires_grad_(False)


def _place(cell: Result) -> tuple[Any, ...]:
    return tuple(cell.record[name] for name in ("reads", "writes"))
