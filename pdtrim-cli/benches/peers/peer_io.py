"""What the scripts of this folder share: errors in one line, tables and JSON files, token ids, and the worker's side
of the protocol.

A worker loads its model, writes {"ready": true}, then answers each JSON line on stdin with one JSON line on stdout.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable, NoReturn

Request = dict[str, Any]
Answer = dict[str, Any]


def fail(message: str) -> NoReturn:
    """Ends the process with one line on stderr."""
    sys.exit(f"error: {message}")


def need(package: str) -> Any:
    """The package, or one line that says how to get it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        fail(f"cannot import {package} ({error}); pip install -r requirements.txt")


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """A line per row, cells under one another; a rule below the first row, which is the head."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return [lines[0], "-" * len(max(lines, key=len)), *lines[1:]]


def write_json(path: Path, value: Any) -> None:
    partial = path.with_name(path.name + ".part")
    partial.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    partial.rename(path)


def token_ids(count: int, first: int = 0) -> list[int]:
    """`count` fixed token ids that look nothing like a repeating text. Ids 100 to 40099 are plain text tokens."""
    return [100 + (i * 7919 + 13) % 40_000 for i in range(first, first + count)]


def serve(answer: Callable[[Request], Answer]) -> None:
    """Answers requests until stdin ends. Libraries that print to stdout are sent to stderr."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    print(json.dumps({"ready": True}), file=replies)
    for line in sys.stdin:
        if line.strip():
            print(json.dumps(reply(answer, line)), file=replies)


def reply(answer: Callable[[Request], Answer], line: str) -> Answer:
    try:
        return answer(json.loads(line))
    except Exception as error:  # the driver decides whether to go on
        return {"error": f"{type(error).__name__}: {error}"}
