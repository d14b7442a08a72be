"""What a view found as JSON takes it: for the command's `--format json` and the monthly report's file."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from datetime import datetime
from typing import Any


def json_value(value: Any) -> Any:
    """A dataclass as JSON takes it: every datetime as ISO 8601 text in UTC."""
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: json_value(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (list, tuple)):
        return [json_value(item) for item in value]
    return value
