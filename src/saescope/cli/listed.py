"""Options that take several values."""

from __future__ import annotations

from typing import Any

from saescope.errors import UsageError


def listed(value: str | None) -> list[str]:
    """The values of a comma-separated option, without empty ones."""
    return [part.strip() for part in value.split(",") if part.strip()] if value else []


def numbers(flag: str, value: str | None) -> list[float]:
    """The numbers of a comma-separated option."""
    found = []
    for part in listed(value):
        try:
            found.append(float(part))
        except ValueError:
            raise UsageError(f"{flag} takes numbers, got {part!r}") from None
    return found


def whole_numbers(flag: str, value: str | None) -> list[int]:
    """The whole numbers of a comma-separated option."""
    found = numbers(flag, value)
    for number in found:
        if not number.is_integer():
            raise UsageError(f"{flag} takes whole numbers, got {number:g}")
    return [int(number) for number in found]


def pairs(flag: str, given: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE of an option that may be repeated; values as YAML reads them. UsageError for one that it does not."""
    import yaml

    settings = {}
    for pair in given or []:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{flag} takes NAME=VALUE, got {pair!r}")
        try:
            settings[name] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UsageError(f"{flag} {name}: {value!r} is no YAML value; write a number, a word or [a list]") from None
    return settings
