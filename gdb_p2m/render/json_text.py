"""JSON with one list element per line: diffable, greppable, and the same bytes for the same data."""

from __future__ import annotations

import json
from typing import Any


def to_json(data: dict[str, Any]) -> str:
    """`data` as JSON text; keys keep their order; lists of objects get a line per element."""
    lines = []
    for key, value in data.items():
        lines.append(f"  {json.dumps(key)}: {_value(value)}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _value(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join("    " + json.dumps(v) for v in value) + "\n  ]"
    return json.dumps(value)
