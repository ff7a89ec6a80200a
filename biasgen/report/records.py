"""Reads the JSON lines that a monitor writes."""
import json
from pathlib import Path
from typing import Any

from biasgen.results import SCHEMA


def read_record(path: str | Path) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any] | None]:
    """(line 1: schema, version, params; the evaluations; the onset of a closed record, else None). ValueError for a file that is not a
    record or of another schema."""
    path = Path(path)
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except json.JSONDecodeError as error:
        raise ValueError(f"record: {path} is not JSON lines: {error}") from None
    if not lines or lines[0].get("schema") != SCHEMA:
        raise ValueError(f"record: {path} does not begin with schema {SCHEMA}")
    onset = lines[-1].get("onset")
    return lines[0], lines[1:] if onset is None else lines[1:-1], onset
