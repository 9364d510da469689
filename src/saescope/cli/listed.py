"""Options that take several values."""

from __future__ import annotations

from typing import Any

from saescope.errors import UsageError


def listed(value: str | None) -> list[str]:
    """The values of a comma-separated option, without empty ones."""
    return [part.strip() for part in value.split(",") if part.strip()] if value else []


def settings_of(flag: str, pairs: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE options as data, values read as YAML."""
    import yaml

    settings = {}
    for pair in pairs or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{flag} takes NAME=VALUE, got {pair!r}")
        settings[name] = yaml.safe_load(value)
    return settings
