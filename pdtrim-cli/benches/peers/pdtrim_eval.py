"""The one place of this folder that calls `pdtrim eval` and knows what it writes."""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_pool import SideError, run_process


@dataclass(frozen=True)
class Evaluation:
    """What `pdtrim eval` said of one task."""

    results: dict[str, Any]  # the results file, in lm-eval's form
    items: list[dict[str, Any]]  # a record per item, in the data's order
    seconds: float  # process start to end

    def scores(self, task: str) -> dict[str, Any]:
        """The metrics, by names such as "acc,none"."""
        return self.results["results"][task]


def evaluate(pdtrim: Path, model: Path, data: Path, task: str, limit: int, threads: int) -> Evaluation:
    """The first `limit` items of a task, in f32."""
    with tempfile.TemporaryDirectory() as name:
        log = Path(name) / "items.jsonl"
        command = [str(pdtrim), "eval", "--model", str(model), "--dtype", "f32", "--data", str(data)]
        command += ["--tasks", task, "--limit", str(limit), "--items", str(log), "--json"]
        stdout, seconds = run_process(command, threads)
        try:
            items = [json.loads(line) for line in log.read_text(encoding="utf-8").split("\n") if line]
            return Evaluation(json.loads(stdout), items, seconds)
        except (OSError, ValueError) as error:
            raise SideError(f"pdtrim eval left no results ({type(error).__name__}: {error})") from error
