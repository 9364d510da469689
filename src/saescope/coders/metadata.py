"""What a coder knows of itself beyond its weights; stored as `saescope.json` beside them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError


class Slice(BaseModel):
    """One hook point's share of the concatenated vector that a coder reads or writes."""

    model_config = ConfigDict(frozen=True)

    point: str
    width: int = Field(gt=0)


class CoderMetadata(BaseModel):
    """Provenance, training record and conventions of a coder. JSON; everything optional but the schema."""

    model_config = ConfigDict(extra="allow")

    schema_version: int = 1
    name: str = ""
    trained_as: str = Field(default="", description="the architecture in training; the saved form may be another")
    options: dict[str, Any] = Field(default_factory=dict, description="the architecture's options in training")
    levels: list[int] = Field(
        default_factory=list, description="cumulative latent counts of a Matryoshka coder's levels"
    )
    model: dict[str, Any] = Field(default_factory=dict, description="LanguageModel.identity() of the model it reads")
    corpus: dict[str, Any] = Field(default_factory=dict)
    sequences: dict[str, Any] = Field(default_factory=dict, description="context, packing, BOS, chat, held-out share")
    kept_rule: dict[str, Any] = Field(default_factory=dict, description="which positions training left out")
    trained_documents: list[str] = Field(default_factory=list, description="ids of the documents in its training rows")
    training: dict[str, Any] = Field(
        default_factory=dict, description="resolved configuration, tokens, seconds, versions"
    )
    imported: dict[str, Any] = Field(
        default_factory=dict,
        description="of a coder read from another tool's files: format, source, what was assumed (warnings), facts",
    )
    history: list[dict[str, float]] = Field(default_factory=list, description="metrics over the run, thinned")

    @field_validator("training")
    @classmethod
    def _tokens_are_counted(cls, training: dict[str, Any]) -> dict[str, Any]:
        tokens = training.get("tokens", 0)
        if not isinstance(tokens, int) or tokens < 0:
            raise PydanticCustomError("count", "tokens is {given}, which is no count", {"given": repr(tokens)})
        return training
