"""Options that take several values."""

from __future__ import annotations


def listed(value: str | None) -> list[str]:
    """The values of a comma-separated option, without empty ones."""
    return [part.strip() for part in value.split(",") if part.strip()] if value else []
