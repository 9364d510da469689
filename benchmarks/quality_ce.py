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
from quality_cells import OURS, Result
from quality_tables import groups
from saescope.coders import make_architecture
from saescope.evaluation import Subject

# Where a library's rule for choosing latents is applied at inference.
ARCHITECTURE = {"topk": "topk", "threshold": "jumprelu", "gated": "gated", "relu": "standard"}
KEPT = ("ce_recovered_mean", "ce_recovered", "ce_increase", "kl", "fvu_centered", "l0")


def run(cells: Path, tokens: int) -> str:
    """Measure the first seed that is there of every cell, if not yet measured (writes its ce.json); a table of all."""
    finished = [group.cells[0] for group in groups(cells) if group.record["passes"] >= 1]
    wanted = [cell for cell in finished if not (cell.folder / "ce.json").exists()]
    ours = {_place(cell): cell for cell in finished if cell.record["library"] == OURS}
    subjects = [(cell, subject_of(cell, ours[_place(cell)])) for cell in wanted if _place(cell) in ours]
    if subjects:
        lm = saescope.LanguageModel.load(subjects[0][1].model_spec())
        corpus = saescope.Corpus.open("demo")
        measured = saescope.evaluate(
            [subject for _, subject in subjects], lm, corpus, max_tokens=tokens, ce_tokens=tokens
        )
        for (cell, _), found in zip(subjects, measured, strict=True):
            record = {key: found.coder[key] for key in KEPT} | {
                "interval": found.intervals["coder"]["ce_recovered_mean"]
            }
            (cell.folder / "ce.json").write_text(json.dumps(record | {"tokens": tokens}))
    return table(finished)


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


def table(cells: list[Result]) -> str:
    lines = ["| point | architecture | library | seed | L0 | fvu_centered | CE recovered (mean ablation) | KL |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for cell in sorted(cells, key=lambda cell: (*_place(cell), cell.record["arch"], cell.record["library"])):
        if not (cell.folder / "ce.json").exists():
            continue
        found, record = json.loads((cell.folder / "ce.json").read_text()), cell.record
        low, high = found["interval"]
        library = record["library"] + (f" ({record['optimizer']})" if record.get("optimizer") else "")
        place = record["reads"] if record["writes"] == record["reads"] else f"{record['reads']} to {record['writes']}"
        lines.append(
            f"| {place} | {record['arch']} | {library} | {record['seed']} | {found['l0']:.1f} | {found['fvu_centered']:.3f} "
            f"| {found['ce_recovered_mean']:.3f} [{low:.3f}, {high:.3f}] | {found['kl']:.3f} |"
        )
    return "\n".join(lines)
