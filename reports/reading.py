"""`rows.jsonl` -> rows: of any version of this program, and of anybody."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from reports.row import BASELINE, SCHEMA, Row, RowError

DTYPES = {"int8": "int8", "qat": "int8", "int4": "int4", "fp8": "fp8", "bf16": "bf16"}  # by the method that sets it
DIGITS = 18  # of an integer in a row, at most


def read_rows(path: Path) -> list[Row]:
    """Rows of a `rows.jsonl`; none where there is no such file.

    Raises:
        RowError: it is no file, cannot be read, or as `parse_rows`.
    """
    if not path.exists():
        return []
    if not path.is_file():  # of a pipe the other end may never come
        raise RowError(f"{path} is no file; remove it, or give another run directory")
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise RowError(f"{path} cannot be read ({error.strerror}); make it readable, or remove it") from error
    return parse_rows(text, str(path))


def parse_rows(text: str, source: str) -> list[Row]:
    """Rows of a `rows.jsonl`; a last line that was cut off while being written is passed over.

    Args:
        source: name of the file, for messages.

    Raises:
        RowError: a line that is no row, or was written by a newer version.
    """
    known, schema = {f.name for f in fields(Row)}, TypeAdapter(Row)
    rows: list[Row] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line, parse_int=_read_int)
            if not isinstance(record["schema"], int):
                raise ValueError("schema: no number")
            if record["schema"] > SCHEMA:
                raise RowError(
                    f"{source}:{number} was written by a newer version of compress; update compress to read it"
                )
            record |= _missing_fields(record)
            rows.append(schema.validate_python({name: value for name, value in record.items() if name in known}))
        except RowError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            if number == len(lines):  # no newline after it
                break
            fault = _describe_fault(error)
            raise RowError(f"{source}:{number} is not a row of measurements ({fault}); remove the line") from error
    return rows


def _missing_fields(record: dict[str, Any]) -> dict[str, Any]:
    """What rows before version 3 said in other words."""
    if record["schema"] >= 3:
        return {}
    config = record.get("config")
    model = config.get("model") if isinstance(config, dict) else None
    dtypes = [DTYPES[method["name"]] for method in record["methods"] if method.get("name") in DTYPES]
    return {
        "base": str(model.get("name", BASELINE)) if isinstance(model, dict) else BASELINE,
        "dtype": dtypes[-1] if dtypes else "fp32",
    }


def _read_int(text: str) -> int:
    """An integer of a sensible length: nothing that is measured needs more, and floats hold no more."""
    if len(text) > DIGITS:
        raise ValueError(f"a number of {len(text)} digits")
    return int(text)


def _describe_fault(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False)[0]
        return f"{'.'.join(map(str, first['loc'][:1]))}: {first['msg']}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
