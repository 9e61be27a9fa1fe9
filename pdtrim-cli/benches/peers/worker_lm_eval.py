#!/usr/bin/env python3
"""Worker: items of a task scored by lm-evaluation-harness, offline, from the published files.

The task files are those of `lm_eval_tasks`. The model is loaded once; the seconds are those of scoring alone,
without start, load and reading the records.

Request: {"work": "piqa", "limit": 20, "first": 40, "batch": 8}; `first` and `batch` may be left out (0 and 1)
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from item_comparison import accuracies
from lm_eval_data import SOURCES
from lm_eval_harness import Harness
from peer_io import Answer, Request, serve

def answer(harness: Harness, data: Path, request: Request) -> Answer:
    task = request.get("work")
    if task not in SOURCES:
        return {"error": f"unknown work {task!r}"}
    span = {name: request[name] for name in ("limit", "first", "batch") if name in request}
    harness.load(task, data)
    start = time.perf_counter()
    found = harness.score(task, data, **span)
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "samples": [seconds], **accuracies(found["results"][task])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with the published files")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        harness = Harness(args.model, Path(name), args.threads)
        serve(lambda request: answer(harness, args.data, request))


if __name__ == "__main__":
    main()
