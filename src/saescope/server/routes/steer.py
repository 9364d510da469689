"""Steering: a feature added while the model writes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Generator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import StreamingResponse

from saescope.errors import SaescopeError, UsageError
from saescope.lm import LanguageModel
from saescope.server import answers
from saescope.server.asking import CoderHere, ServedNow, known_feature
from saescope.server.model_worker import Stop
from saescope.server.prompting import tokenized
from saescope.server.routes.prompt import turns_of
from saescope.server.steered_stream import steered_events

router = APIRouter(tags=["steer"])
_LINES: dict[int | str, dict[str, Any]] = {
    200: {"content": {"application/x-ndjson": {"schema": {"type": "string"}}}, "description": "One event a line."}
}


@router.post("/coders/{id}/steer", response_class=StreamingResponse, responses=_LINES)
async def steer(asked: answers.SteerAsked, coder: CoderHere, served: ServedNow, request: Request) -> StreamingResponse:
    """Two completions of a text, one with the feature added, as lines of JSON: start, then tokens of either as they come, then
    end. What goes wrong before the first line is an error as everywhere; afterwards a last line of event `error`."""
    feature = known_feature(coder, asked.feature)
    maximum = float(coder.index.maximum[feature])
    if not maximum:
        raise UsageError(
            f"feature {feature} never fired on the indexed text: it has no maximum to measure a strength by"
        )

    def work(lm: LanguageModel, stop: Stop) -> Generator[dict[str, Any], None, None]:
        subject = coder.subject(lm.device)
        subject.check_model(lm)
        return steered_events(
            lm,
            subject,
            tokenized(lm, asked.text, turns_of(asked), subject.sequence_options(), reply=True),
            stop,
            feature=feature,
            strength=asked.strength,
            maximum=maximum,
            max_new_tokens=asked.max_new_tokens,
            temperature=asked.temperature,
            seed=asked.seed,
        )

    events = served.worker.stream(work)
    first = await served.worker.begun(request, events)

    async def lines() -> AsyncIterator[bytes]:
        try:
            yield _line(first)
            async for event in events:
                yield _line(event)
        except SaescopeError as error:
            yield _line({"event": "error", "detail": " ".join(str(error).split())})
        finally:
            await events.aclose()

    return StreamingResponse(lines(), media_type="application/x-ndjson", headers={"x-accel-buffering": "no"})


def _line(event: dict[str, Any]) -> bytes:
    return (
        json.dumps(event, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
    )
