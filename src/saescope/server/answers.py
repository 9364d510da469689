"""What the API answers and takes, as types: the OpenAPI document is made from these."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

TEXT_LIMIT = 20_000
TOKEN_LIMIT = 1_024
LABEL_LIMIT = 1_000
NOTE_LIMIT = 20_000
NEW_TOKENS_LIMIT = 128
CONTEXT_LIMIT = 256
PAGE_TOKENS, PAGE_LIMIT = 2_000, 4_000


class Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


_HALF_CHARACTER = re.compile(r"[\ud800-\udfff]")


def _whole_characters(text: object) -> object:
    return _HALF_CHARACTER.sub("\ufffd", text) if isinstance(text, str) else text


Text = Annotated[str, BeforeValidator(_whole_characters)]
"""Text as people paste it: half a character, which JSON can carry and UTF-8 cannot, is one that is not there."""


class Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Problem(Answer):
    """Every error: one line that says what is wrong and what to do."""

    detail: str


# The workspace


class ModelState(Answer):
    name: str
    loaded: bool
    state: Literal["absent", "loading", "ready", "failed"]
    message: str


class Job(Answer):
    id: str
    kind: str
    coder: str
    stage: str
    done: int
    total: int
    state: Literal["running", "done", "failed"]
    message: str


class Metric(Answer):
    label: str
    value: float
    controls: dict[str, float]
    interval: list[float] | None = None


class LabelSource(Answer):
    source: str
    count: int


class Coder(Answer):
    id: str
    name: str
    architecture: str
    kind: str
    reads: list[str]
    writes: list[str]
    d_in: int
    d_sae: int
    levels: list[int]
    tokens: int
    documents: int
    corpus: str
    live: int
    dead: int
    fvu_centered: float | None
    metrics: dict[str, Metric] | None
    labels: LabelSource | None
    first_feature: int
    forms: list[str]
    can_run: bool
    why_not: str


class WorkspaceAnswer(Answer):
    version: str
    title: str
    model: ModelState
    coders: list[Coder]
    jobs: list[Job]


# Features


class Label(Answer):
    text: str
    source: Literal["person", "llm", "contrastive"]
    score: float | None


class ScoredLabel(Label):
    """interval: the score's 95 %; controls: what else scores how on the same text, as another feature's label. A label that a
    person wrote has neither."""

    interval: list[float] | None
    controls: dict[str, float]


class Document(Answer):
    index: int
    title: str
    source: str


class ContextToken(Answer):
    """t: text; v: the feature's activation; k: whether the position has codes; p: its global position."""

    t: str
    v: float
    k: bool
    p: int


class Context(Answer):
    position: int
    document: Document
    tokens: list[ContextToken]
    peak: int
    value: float
    more_before: bool
    more_after: bool


class _Shown(Answer):
    feature: int
    label: Label | None
    density: float
    max: float
    form: str | None
    level: int | None
    starred: bool
    outputs: list[str]
    example: Context | None


class Card(_Shown):
    family: int | None
    relevance: float | None = None


class Features(Answer):
    total: int
    items: list[Card]


class Histogram(Answer):
    edges: list[float]
    counts: list[int]


class Group(Answer):
    name: str
    low: float
    high: float
    contexts: list[Context]


class OutputToken(Answer):
    token: int
    text: str
    logit: float


class Coactive(Answer):
    feature: int
    label: Label | None
    count: int
    lift: float
    phi: float


class Near(Answer):
    feature: int
    label: Label | None
    cosine: float


class Neuron(Answer):
    dimension: int
    weight: float


class Profile(Answer):
    bins: list[str]
    share: list[float]
    base: list[float]


class SourceShare(Answer):
    name: str
    count: int
    density: float


class DocumentCount(Answer):
    index: int
    title: str
    count: int


class Member(Answer):
    feature: int
    label: Label | None


class Family(Answer):
    id: int
    members: list[Member]


class Split(Answer):
    feature: int
    label: Label | None
    score: float


class Revised(Answer):
    text: str
    revision: int


class HistoryEntry(Answer):
    text: str
    source: Literal["person", "conflict", "llm", "contrastive"]
    created: str


class Feature(_Shown):
    label: ScoredLabel | None
    count: int
    mean: float
    decoder_norm: float | None
    histogram: Histogram
    groups: list[Group]
    outputs_top: list[OutputToken]
    outputs_bottom: list[OutputToken]
    coactive: list[Coactive]
    nearest_decoder: list[Near]
    nearest_encoder: list[Near]
    neurons: list[Neuron]
    position_profile: Profile
    sources: list[SourceShare]
    documents: list[DocumentCount]
    family: Family | None
    splits_into: list[Split]
    split_of: list[Split]
    note: Revised
    label_revision: int
    label_history: list[HistoryEntry]
    lists: list[str]
    previous: int | None
    next: int | None


class FeatureMap(Answer):
    features: list[int]
    x: list[float]
    y: list[float]
    density: list[float]
    form: list[str | None]
    family: list[int | None]


class FiringFeature(Answer):
    feature: int
    label: Label | None
    value: float
    share_of_max: float


class Position(Answer):
    token: str
    features: list[FiringFeature]


class ColouringFeature(Answer):
    feature: int
    label: Label | None
    max: float


class Firing(Answer):
    """place: the token's among the document's."""

    position: int
    place: int
    value: float


class DocumentFirings(Answer):
    """How many tokens a feature fires on: on a page (`here`), in the document, in each of its parts of `part` tokens; and the
    nearest before and after the page."""

    here: int
    total: int
    previous: Firing | None
    next: Firing | None
    strongest: Firing | None
    part: int
    parts: list[int]


class Stretch(Answer):
    """Text of one sequence. begins: what is before it: the document's beginning, a new sequence (the model starts anew), tokens
    that are not the document's, or an earlier page; place: its first token's among the document's."""

    begins: Literal["document", "sequence", "gap", "page"]
    place: int
    tokens: list[ContextToken]


class DocumentText(Answer):
    """length: tokens of the document that the index has; whole: tokens that it has in all; the index may lack its end."""

    document: Document
    split: str
    length: int
    whole: int
    offset: int
    limit: int
    feature: ColouringFeature | None
    firings: DocumentFirings | None
    stretches: list[Stretch]


# What people change


class LabelAsked(Asked):
    text: Annotated[Text, Field(max_length=LABEL_LIMIT)]
    revision: Annotated[int, Field(ge=0, lt=2**31)]


class LabelKept(Answer):
    label: Label | None
    revision: int


class NoteAsked(Asked):
    text: Annotated[Text, Field(max_length=NOTE_LIMIT)]
    revision: Annotated[int, Field(ge=0, lt=2**31)]


class Star(Asked):
    starred: bool


class Lists(Asked):
    lists: Annotated[list[Annotated[Text, Field(max_length=200)]], Field(max_length=100)]


class ListCount(Answer):
    name: str
    count: int


class ListCounts(Answer):
    lists: list[ListCount]


# The model's own work


class Turn(Asked):
    role: Literal["system", "user", "assistant"]
    content: Annotated[Text, Field(max_length=TEXT_LIMIT)]


class TextAsked(Asked):
    """A text as it stands, or the turns of a conversation as the model's chat template writes them."""

    text: Annotated[Text, Field(max_length=TEXT_LIMIT)] | None = None
    turns: Annotated[list[Turn], Field(max_length=64)] | None = None

    @model_validator(mode="after")
    def _one_of_them(self) -> TextAsked:
        if (self.text is None) == (self.turns is None):
            raise ValueError("give text, or turns")
        if sum(len(turn.content) for turn in self.turns or ()) > TEXT_LIMIT:
            raise ValueError(f"the turns have more than {TEXT_LIMIT:,} characters together")
        return self


class PromptAsked(TextAsked):
    features: Annotated[list[Annotated[int, Field(ge=0)]], Field(max_length=64)] = []
    top: Annotated[int, Field(ge=1, le=50)] = 10


class TopFeature(Answer):
    feature: int
    value: float


class PromptToken(Answer):
    t: str
    k: bool
    top: list[TopFeature]


class Fires(Answer):
    """at: the tokens on which a feature fires; values: its activation on each."""

    at: list[int]
    values: list[float]


class Strongest(Fires):
    """value: the largest, on `token`."""

    feature: int
    value: float
    token: int
    unusual: float


class PromptResult(Answer):
    tokens: list[PromptToken]
    pinned: dict[str, list[float]]
    labels: dict[str, Label]
    maxima: dict[str, float]
    strongest: list[Strongest]
    truncated: bool


class SteerAsked(TextAsked):
    feature: Annotated[int, Field(ge=0)]
    strength: Annotated[float, Field(ge=-100, le=100)]
    max_new_tokens: Annotated[int, Field(ge=1, le=NEW_TOKENS_LIMIT)] = 40
    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class ComparePromptsAsked(Asked):
    coder: str
    a: Annotated[Text, Field(max_length=TEXT_LIMIT)]
    b: Annotated[Text, Field(max_length=TEXT_LIMIT)]


class Difference(Answer):
    feature: int
    label: Label | None
    a: float
    b: float
    difference: float
    on_a: Fires
    on_b: Fires


class PromptTokens(Answer):
    tokens: list[PromptToken]


class ComparedPrompts(Answer):
    features: list[Difference]
    a: PromptTokens
    b: PromptTokens


class CompareCodersAsked(Asked):
    coders: Annotated[list[str], Field(min_length=1, max_length=8)]
    text: Annotated[Text, Field(max_length=TEXT_LIMIT)]


class CoderResult(PromptResult):
    coder: str


class ComparedCoders(Answer):
    results: list[CoderResult]


class LabelJobAsked(Asked):
    kind: Literal["contrastive"] = "contrastive"
