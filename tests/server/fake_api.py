"""A server of the explorer's API with made-up features: rich enough to fill every view, hostile where people's text is.

It keeps what people write, refuses as the real one does, and sends the page under the real content-security policy, so that the
page can be built and tested without a model. `python -m tests.server.fake_api PORT` serves it.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles

WEB = Path(__file__).resolve().parents[2] / "src" / "saescope" / "server" / "web"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
D_SAE = 240
FORMS = ["token", "phrase", "context", "position", "output-promoting", "dense"]
HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
BIDI = "\u202eevil\u202c שלום مرحبا"

THEMES = [
    (
        "Albert Einstein and relativity",
        r"einstein|relativ|physic|princeton|photo",
        ["Einstein", "physics", "relativity"],
    ),
    ("Apollo missions and the Moon", r"apollo|moon|lunar|nasa|astronaut|armstrong", ["Apollo", "lunar", "NASA"]),
    ("Alaska: places and people", r"alaska|anchorage|juneau|yukon|arctic", ["Alaska", "Anchorage", "Juneau"]),
    ("years of the twentieth century", r"19\d\d", ["1", "9", "19"]),
    ("names of capitals, often after “in”", r"paris|london|washington|algiers|berlin", ["Paris", "London"]),
    (HOSTILE, r"html|script|<", ["<", "</", "script"]),
    (BIDI, r"שלום|مرحبا|arab|hebrew", ["שלום", "مرحبا"]),
    ("anarchism, and other isms", r"ism\b|anarch", ["ism", "ist"]),
]
SENTENCES = [
    "Albert Einstein was born in Ulm in 1879 and moved to Princeton, where he worked on relativity until 1955.",
    "In 1969 Apollo 11 landed on the Moon; Neil Armstrong was the first astronaut on its lunar surface.\nNASA had planned it",
    "Alaska is the largest state of the United States.\n\n\tIts largest city is Anchorage, and Juneau its capital.",
    "Anarchism is a political philosophy; capitalism and socialism are others, said a speaker in Paris in 1936.",
    "An attacker wrote <script>alert('x')</script> & <b>bold</b> html in the page\x00 and hoped.",
    "The greeting שלום עולם is Hebrew and مرحبا بالعالم is Arabic \u202eand this is turned round\u202c again.",
    "日本語の文章と中文的句子。 😀 👩‍👩‍👧 🇫🇷 emoji and CJK text, naïve café, London.",
]
DOCUMENTS = [
    "Albert Einstein",
    "Apollo 11",
    "Alaska",
    "Anarchism",
    "Cross-site <b>scripting</b>",
    "مرحبا بالعالم",
    "日本",
]


def pieces(text: str) -> list[str]:
    return re.findall(r"\n| ?[^\W\d_]{1,12}| ?\d{1,4}|\s|[^\w\s]|_", text)


def strength(feature: int, token: str) -> float:
    """What the made-up feature does on a token: its theme's words, and a sprinkle of others."""
    word = token.strip().lower()
    if feature < len(THEMES):
        if word and re.search(THEMES[feature][1], word):
            return 6.0 + (len(word) * 7 + feature) % 9
        return 0.0
    draw = (hash_of(word) * 2654435761 + feature * 40503) % 1000
    return (draw - 955) / 5 if word and draw > 955 else 0.0


def hash_of(word: str) -> int:
    return sum((i + 1) * ord(c) for i, c in enumerate(word)) % 99991


class World:
    """The made-up index and what people have written."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.density = 10 ** random.normal(-3.2, 0.7, D_SAE)
        self.maximum = 12 + 10 * random.random(D_SAE)
        self.places = random.normal(0, 1, (D_SAE, 2)) + random.integers(0, 4, (D_SAE, 1)) * np.array([[2.5, 1.2]])
        self.auto = {f: self.automatic(f) for f in range(D_SAE)}
        self.labels: dict[int, list[dict[str, Any]]] = {}
        self.notes: dict[int, dict[str, Any]] = {}
        self.stars: set[int] = set()
        self.lists: dict[int, list[str]] = {}
        self.jobs: list[dict[str, Any]] = []

    def automatic(self, feature: int) -> dict[str, Any] | None:
        if feature < len(THEMES):
            return {"text": THEMES[feature][0], "source": "contrastive", "score": 0.93 - 0.03 * feature}
        if feature % 17 == 0:
            return None
        words = ["the start of", "words about", "numbers in", "the end of", "verbs of", "commas before"]
        things = ["music", "rivers", "law", "chess", "kings", "trains", "chemistry", "a list", "dates", "films"]
        text = f"{words[feature % 6]} {things[feature % 10]}"
        return {"text": text, "source": "contrastive", "score": 0.5 + 0.4 * ((feature * 37) % 100) / 100}

    def label(self, feature: int) -> dict[str, Any] | None:
        history = self.labels.get(feature, [])
        if history and history[-1]["text"]:
            return {"text": history[-1]["text"], "source": "person", "score": None}
        return self.auto[feature]

    def named(self, feature: int) -> dict[str, Any]:
        return {"feature": feature, "label": self.label(feature)}

    def context(self, feature: int, sentence: int, wide: int = 0) -> dict[str, Any]:
        tokens = pieces(" ".join(SENTENCES[(sentence + i) % len(SENTENCES)] for i in range(-wide, wide + 1)))
        values = [strength(feature, t) for t in tokens]
        peak = int(np.argmax(values))
        if values[peak] == 0:
            peak = (feature * 7) % len(tokens)
            values[peak] = 3.0 + feature % 5
        document = sentence % len(DOCUMENTS)
        return {
            "position": sentence * 1000 + peak,
            "document": {"index": document, "title": DOCUMENTS[document], "source": "wikipedia"},
            "tokens": [
                {"t": t, "v": v, "k": i > 0 or peak == 0, "p": sentence * 1000 + i}
                for i, (t, v) in enumerate(zip(tokens, values, strict=True))
            ],
            "peak": peak,
            "value": values[peak],
            "more_before": wide < 2,
            "more_after": wide < 2,
        }

    def document(self, number: int, feature: int | None, offset: int, limit: int, at: int | None) -> dict[str, Any]:
        """A long text that begins with a sentence of the examples; what else it has repeats the others."""
        first = pieces(SENTENCES[number])
        rest = pieces(" ".join(SENTENCES[(number + i) % len(SENTENCES)] for i in range(1, 180)))
        positions = [
            *(number * 1000 + i for i in range(len(first))),
            *(100_000 * (number + 1) + i for i in range(len(rest))),
        ]
        tokens = [
            {"t": t, "v": 0.0 if feature is None else strength(feature, t), "k": i > 0, "p": p}
            for i, (t, p) in enumerate(zip([*first, *rest], positions, strict=True))
        ]
        if at is not None:
            offset = positions.index(at) // limit * limit
        found = [
            {"position": token["p"], "place": i, "value": token["v"]}
            for i, token in enumerate(tokens)
            if token["v"] > 0
        ]
        end = min(offset + limit, len(tokens))
        edges = sorted({offset, end, *(p for p in (len(first), *range(256, len(tokens), 256)) if offset < p < end)})
        begins = {0: "document", len(first): "gap"}
        counts = [sum(page <= one["place"] < page + limit for one in found) for page in range(0, len(tokens), limit)]
        return {
            "document": {"index": number, "title": DOCUMENTS[number], "source": "wikipedia"},
            "split": "train", "length": len(tokens), "whole": len(tokens) + 12, "offset": offset, "limit": limit,
            "feature": None if feature is None else {**self.named(feature), "max": float(self.maximum[feature])},
            "firings": None if feature is None else {
                "here": sum(offset <= one["place"] < end for one in found), "total": len(found),
                "previous": next((one for one in reversed(found) if one["place"] < offset), None),
                "next": next((one for one in found if one["place"] >= end), None),
                "strongest": max(found, key=lambda one: one["value"], default=None),
                "part": limit, "parts": counts,
            },
            "stretches": [
                {"begins": begins.get(low, "page" if low == offset else "sequence"), "place": low, "tokens": tokens[low:high]}
                for low, high in itertools.pairwise(edges)
            ],
        }  # fmt: skip

    def card(self, feature: int) -> dict[str, Any]:
        own = next((i for i, s in enumerate(SENTENCES) if any(strength(feature, t) for t in pieces(s))), feature % 7)
        dead = feature % 97 == 96
        return {
            **self.named(feature),
            "density": 0.0 if dead else float(self.density[feature]),
            "max": 0.0 if dead else float(self.maximum[feature]),
            "form": FORMS[feature % 6],
            "level": feature % 3,
            "family": feature // 12,
            "starred": feature in self.stars,
            "outputs": THEMES[feature][2] if feature < len(THEMES) else [" the", "ing", f" w{feature}"],
            "example": None if dead else self.context(feature, own),
        }

    def feature(self, feature: int) -> dict[str, Any]:
        card = self.card(feature)
        near = [(feature + step) % D_SAE for step in (1, 5, 12, 40, 77)]
        groups = [("top", 0.9, 1.0), ("80–100 %", 0.6, 0.9), ("50–80 %", 0.3, 0.6), ("0–50 %", 0.0, 0.3)]
        top = card["max"]
        history = self.labels.get(feature, [])
        scored = card["label"] and {
            **card["label"],
            **(
                {"interval": None, "controls": {}}
                if card["label"]["source"] == "person"
                else {"interval": [0.88, 0.95], "controls": {"random_label": 0.52, "top_token": 0.81}}
            ),
        }
        return {
            **card,
            "label": scored,
            "count": int(card["density"] * 865_000),
            "mean": top * 0.3,
            "decoder_norm": 1.0,
            "histogram": {
                "edges": [0.1 * 1.3**i for i in range(25)],
                "counts": [int(900 * math.exp(-(((i - 10 - feature % 5) / 5) ** 2))) for i in range(24)],
            },
            "groups": [
                {
                    "name": name,
                    "low": low * top,
                    "high": high * top,
                    "contexts": []
                    if card["example"] is None
                    else [self.context(feature, (i + g * 2 + feature) % 7) for i in range(7 if g == 0 else 4)],
                }
                for g, (name, low, high) in enumerate(groups)
            ],
            "outputs_top": [
                {"token": i, "text": t, "logit": 4.2 - i * 0.3}
                for i, t in enumerate([*card["outputs"], " of", "\n", " été", HOSTILE[:12]])
            ],
            "outputs_bottom": [
                {"token": i, "text": t, "logit": -3.1 + i * 0.2} for i, t in enumerate([" not", "ly", " 的", "  "])
            ],
            "coactive": [
                {**self.named(f), "count": 900 - 100 * i, "lift": 40.0 / (i + 1), "phi": 0.6 / (i + 1)}
                for i, f in enumerate(near)
            ],
            "nearest_decoder": [{**self.named(f), "cosine": 0.7 - 0.1 * i} for i, f in enumerate(near)],
            "nearest_encoder": [{**self.named(f), "cosine": 0.6 - 0.1 * i} for i, f in enumerate(reversed(near))],
            "neurons": [{"dimension": 30 * i + feature, "weight": 0.3 - 0.12 * i} for i in range(5)],
            "position_profile": {
                "bins": ["0", "1", "2–3", "4–7", "8–15", "16–31", "32–63", "64–127"],
                "share": [0.01, 0.02, 0.03, 0.06, 0.1, 0.18, 0.28, 0.32],
                "base": [0.008, 0.008, 0.016, 0.03, 0.06, 0.12, 0.25, 0.508],
            },
            "sources": [
                {"name": "wikipedia", "count": 700, "density": 0.001},
                {"name": "news", "count": 12, "density": 0.0001},
            ],
            "documents": [{"index": i, "title": DOCUMENTS[i], "count": 50 - i * 7} for i in range(5)],
            "family": {
                "id": feature // 12,
                "members": [self.named(f) for f in range(feature // 12 * 12, feature // 12 * 12 + 6)],
            },
            "splits_into": [{**self.named(f), "score": 0.8 - 0.1 * i} for i, f in enumerate(near[:3])]
            if feature % 3 == 0
            else [],
            "split_of": [{**self.named(near[3]), "score": 0.7}] if feature % 3 else [],
            "note": self.notes.get(feature, {"text": "", "revision": 0}),
            "label_revision": len(history),
            "label_history": [
                *reversed(history),
                *([{**self.auto[feature], "created": "2026-01-02T03:04:05Z"}] if self.auto[feature] else []),
            ],
            "lists": self.lists.get(feature, []),
            "previous": feature - 1 if feature else None,
            "next": feature + 1 if feature + 1 < D_SAE else None,
        }

    def coder(self, id: str, name: str, can_run: bool = True) -> dict[str, Any]:
        def controls(*values: float) -> dict[str, float]:
            return dict(zip(("frozen_random", "pca", "neurons"), values, strict=True))

        metrics = {
            "l0": {"label": "L0", "value": 32.0, "controls": {}},
            "fvu_centered": {
                "label": "FVU (centred)",
                "value": 0.148,
                "controls": controls(0.512, 0.31, 0.9),
                "interval": [0.146, 0.151],
            },
            "ce_recovered": {
                "label": "CE recovered",
                "value": 0.972,
                "controls": controls(0.41, 0.83, 0.2),
                "interval": [0.968, 0.976],
            },
            "probing_k1": {
                "label": "1-sparse probing",
                "value": 0.78,
                "controls": controls(0.66, 0.69, 0.71),
                "interval": [0.75, 0.81],
            },
        }
        return {
            "id": id, "name": name, "architecture": "matryoshka", "kind": "sae",
            "reads": ["resid_post.14"], "writes": ["resid_post.14"],
            "d_in": 576, "d_sae": D_SAE, "levels": [60, 120, 240],
            "tokens": 865_000, "documents": 106, "corpus": "wikipedia, 106 articles",
            "live": D_SAE - 2, "dead": 2, "fvu_centered": 0.148, "metrics": metrics if can_run else None,
            "labels": {"source": "contrastive", "count": 220} if can_run else None, "first_feature": 0, "forms": FORMS,
            "can_run": can_run, "why_not": "" if can_run else "The model of this index is not on this machine.",
        }  # fmt: skip

    def fires(self, feature: int, tokens: list[str]) -> dict[str, Any]:
        values = {i: v for i, t in enumerate(tokens) if (v := strength(feature, t)) > 0}
        return {"at": list(values), "values": list(values.values())}

    def prompt(self, text: str, pinned: list[int], top: int) -> dict[str, Any]:
        tokens = pieces(text)[:1024]
        fired = [
            sorted(((f, v) for f in range(D_SAE) if (v := strength(f, t)) > 0), key=lambda fv: -fv[1]) for t in tokens
        ]
        best: dict[int, tuple[float, int]] = {}
        for i, row in enumerate(fired):
            for f, v in row:
                if v > best.get(f, (0.0, 0))[0]:
                    best[f] = (v, i)
        strongest = [
            {
                "feature": f,
                "value": v,
                "token": i,
                "unusual": v / self.maximum[f] * -math.log(self.density[f]),
                **self.fires(f, tokens),
            }
            for f, (v, i) in best.items()
        ]
        strongest.sort(key=lambda row: -row["unusual"])
        return {
            "tokens": [
                {"t": t, "k": True, "top": [{"feature": f, "value": v} for f, v in row[:top]]}
                for t, row in zip(tokens, fired, strict=True)
            ],
            "pinned": {str(f): [strength(f, t) for t in tokens] for f in pinned},
            "labels": {str(f): self.label(f) for f in {*best, *pinned}},
            "maxima": {str(f): float(self.maximum[f]) for f in {*best, *pinned}},
            "strongest": strongest[:40],
            "truncated": len(pieces(text)) > 1024,
        }


def text_of(body: dict[str, Any]) -> str:
    if body.get("turns"):
        return "".join(f"{t['role']}\n{t['content']}\n" for t in body["turns"])
    text = body.get("text") or ""
    if len(text) > 20_000:
        raise HTTPException(413, f"The text has {len(text):,} characters; at most 20,000 are read.")
    return text


def create_app() -> FastAPI:
    app, world = FastAPI(), World()
    app.state.world = world

    @app.middleware("http")
    async def guard(request: Request, call: Any) -> Any:
        if request.method != "GET" and request.headers.get("X-Saescope") != "1":
            return JSONResponse({"detail": "Requests that change something need the header X-Saescope: 1."}, 403)
        response = await call(request)
        response.headers["Content-Security-Policy"] = POLICY
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    def known(feature: int) -> int:
        if not 0 <= feature < D_SAE:
            raise HTTPException(404, f"Feature {feature} does not exist; the coder has {D_SAE}.")
        return feature

    @app.get("/api/workspace")
    def workspace() -> Any:
        coders = [
            world.coder("main", "matryoshka-4096"),
            world.coder("other", "topk-4096"),
            world.coder("still", "no-model", False),
        ]
        return {
            "version": "0.1.0",
            "title": "demo",
            "model": {"name": "SmolLM2-135M", "loaded": True, "state": "ready", "message": ""},
            "coders": coders,
            "jobs": world.jobs,
        }

    @app.get("/api/coders/{coder}/density")
    def density(coder: str) -> Any:
        counts, edges = np.histogram(np.log10(world.density), bins=24)
        return {"edges": edges.tolist(), "counts": counts.tolist()}

    @app.get("/api/coders/{coder}/map")
    def places(coder: str) -> Any:
        return {
            "features": list(range(D_SAE)), "x": world.places[:, 0].tolist(), "y": world.places[:, 1].tolist(),
            "density": world.density.tolist(), "form": [FORMS[f % 6] for f in range(D_SAE)],
            "family": [f // 12 for f in range(D_SAE)],
        }  # fmt: skip

    @app.get("/api/coders/{coder}/features")
    def browse(
        coder: str, q: str = "", by: str = "label", form: str = "", level: int | None = None, min_density: float = 0,
        max_density: float = 1, min_score: float = 0, starred: int = 0, list: str = "", sort: str = "", order: str = "desc",
        offset: int = 0, limit: int = 30,
    ) -> Any:  # fmt: skip
        cards = [world.card(f) for f in range(D_SAE)]
        words = q.lower().split()
        text = lambda c: (c["label"] or {"text": ""})["text"].lower()  # noqa: E731
        kept = [
            {**c, "relevance": float(sum(w in text(c) for w in words)) if words else None}
            for c in cards
            if (not words or (all if by == "label" else any)(w in text(c) or str(c["feature"]) == w for w in words))
            and (not form or c["form"] == form)
            and (level is None or c["level"] == level)
            and min_density <= c["density"] <= max_density
            and (not min_score or ((c["label"] or {}).get("score") or 0) >= min_score)
            and (not starred or c["starred"])
            and (not list or list in world.lists.get(c["feature"], []))
        ]
        keys = {
            "score": lambda c: (c["label"] or {}).get("score") or 0, "label": text, "max": lambda c: c["max"],
            "feature": lambda c: c["feature"], "density": lambda c: c["density"], "relevance": lambda c: c["relevance"] or 0,
        }  # fmt: skip
        kept.sort(key=keys.get(sort, keys["feature"]), reverse=bool(sort) and order == "desc")
        return {"total": len(kept), "items": kept[offset : offset + limit]}

    @app.get("/api/coders/{coder}/features/{feature}")
    def feature(coder: str, feature: int) -> Any:
        return world.feature(known(feature))

    @app.get("/api/coders/{coder}/documents/{number}")
    def document(
        coder: str, number: int, feature: int | None = None, offset: int = 0, limit: int = 2000, at: int | None = None
    ) -> Any:
        if not 0 <= number < len(DOCUMENTS):
            raise HTTPException(404, f"there is no document {number}; there are {len(DOCUMENTS)}.")
        return world.document(number, None if feature is None else known(feature), offset, limit, at)

    @app.get("/api/coders/{coder}/features/{feature}/context")
    def context(coder: str, feature: int, position: int, before: int = 16, after: int = 16) -> Any:
        return world.context(known(feature), position // 1000, wide=1 if max(before, after) <= 64 else 2)

    @app.put("/api/coders/{coder}/features/{feature}/label")
    def label(coder: str, feature: int, body: dict[str, Any]) -> Any:
        history = world.labels.setdefault(known(feature), [])
        conflict = body["revision"] != len(history)
        history_entry = {
            "text": body["text"],
            "source": "conflict" if conflict else "person",
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        }
        if conflict:
            history.insert(len(history) - 1, history_entry)
            raise HTTPException(409, "The label was changed meanwhile; both versions are in the history.")
        history.append(history_entry)
        return {"label": world.label(feature), "revision": len(history)}

    @app.put("/api/coders/{coder}/features/{feature}/note")
    def note(coder: str, feature: int, body: dict[str, Any]) -> Any:
        now = world.notes.get(known(feature), {"text": "", "revision": 0})
        if body["revision"] != now["revision"]:
            raise HTTPException(409, "The note was changed meanwhile; both versions are in the history.")
        world.notes[feature] = {"text": body["text"], "revision": now["revision"] + 1}
        return world.notes[feature]

    @app.put("/api/coders/{coder}/features/{feature}/star")
    def star(coder: str, feature: int, body: dict[str, Any]) -> Any:
        (world.stars.add if body["starred"] else world.stars.discard)(known(feature))
        return {"starred": feature in world.stars}

    @app.put("/api/coders/{coder}/features/{feature}/lists")
    def lists(coder: str, feature: int, body: dict[str, Any]) -> Any:
        world.lists[known(feature)] = body["lists"]
        return {"lists": body["lists"]}

    @app.get("/api/lists")
    def all_lists() -> Any:
        names = sorted({name for kept in world.lists.values() for name in kept})
        return {"lists": [{"name": n, "count": sum(n in kept for kept in world.lists.values())} for n in names]}

    @app.post("/api/coders/{coder}/prompt")
    def prompt(coder: str, body: dict[str, Any]) -> Any:
        return world.prompt(text_of(body), body.get("features", []), body.get("top", 10))

    @app.post("/api/compare/prompts")
    def compare_prompts(body: dict[str, Any]) -> Any:
        results = {side: world.prompt(body[side], [], 10) for side in "ab"}
        peaks = {side: {s["feature"]: s["value"] for s in results[side]["strongest"]} for side in "ab"}
        rows = [
            {
                **world.named(f),
                "a": peaks["a"].get(f, 0.0),
                "b": peaks["b"].get(f, 0.0),
                "difference": peaks["b"].get(f, 0.0) - peaks["a"].get(f, 0.0),
                **{f"on_{side}": world.fires(f, pieces(body[side])) for side in "ab"},
            }
            for f in {*peaks["a"], *peaks["b"]}
        ]
        rows.sort(key=lambda row: -abs(row["difference"]))
        return {"features": rows[:40], **{side: {"tokens": results[side]["tokens"]} for side in "ab"}}

    @app.post("/api/compare/coders")
    def compare_coders(body: dict[str, Any]) -> Any:
        return {"results": [{"coder": coder, **world.prompt(text_of(body), [], 10)} for coder in body["coders"]]}

    @app.post("/api/coders/{coder}/steer")
    async def steer(coder: str, body: dict[str, Any]) -> Any:
        async def lines() -> AsyncIterator[str]:
            power = abs(body["strength"]) * world.maximum[body["feature"]]
            yield (
                json.dumps({"event": "start", "prompt_tokens": 7, "norm_of_edit": power, "norm_of_residual": 152.0})
                + "\n"
            )
            plain = pieces(" a place where people live.\nIt is known for its long winters and short summers.")
            steered = pieces(
                " Princeton, where Einstein worked on physics and relativity, and relativity, and physics."
            )
            for i in range(min(body.get("max_new_tokens", 32), 16)):
                for which, words in (("baseline", plain), ("steered", steered if body["strength"] > 0 else plain)):
                    await asyncio.sleep(0.2 if "slowly" in text_of(body) else 0.01)
                    if i < len(words):
                        event = {
                            "event": "token",
                            "which": which,
                            "t": words[i],
                            "v": strength(body["feature"], words[i]),
                        }
                        yield json.dumps(event) + "\n"
            yield (
                json.dumps(
                    {"event": "end", "perplexity": {"baseline": 11.2, "steered": 11.2 + power}, "stopped": "length"}
                )
                + "\n"
            )

        return StreamingResponse(lines(), media_type="application/x-ndjson")

    @app.post("/api/coders/{coder}/label-job")
    def label_job(coder: str) -> Any:
        job = {
            "id": str(len(world.jobs) + 1),
            "kind": "label",
            "coder": coder,
            "stage": "scoring labels",
            "done": 0,
            "total": D_SAE,
            "state": "running",
            "message": "",
        }
        world.jobs.append(job)
        return job

    @app.get("/api/jobs")
    def jobs() -> Any:
        for job in world.jobs:
            if job["state"] == "running":
                job["done"] = min(job["done"] + 120, job["total"])
                if job["done"] == job["total"]:
                    job["state"] = "done"
        return world.jobs

    @app.get("/api/coders/{coder}/positions/{position}")
    def position(coder: str, position: int) -> Any:
        features = [
            {**world.named(f), "value": 8.0 - i, "share_of_max": 0.8 - 0.1 * i} for i, f in enumerate((0, 1, 9, 30))
        ]
        return {"token": " Einstein", "features": features}

    @app.get("/")
    def page() -> Any:
        return FileResponse(WEB / "index.html")

    app.mount("/static", StaticFiles(directory=WEB))
    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(create_app(), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
