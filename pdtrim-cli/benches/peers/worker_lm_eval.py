#!/usr/bin/env python3
"""Worker: PIQA's first items scored by lm-evaluation-harness, offline, from the published files.

The harness ships PIQA as a task that downloads its data; here a task file with the same prompt and choices is written
to a temporary folder and reads `piqa/valid.jsonl` and `piqa/valid-labels.lst` under --data. The model is loaded once;
the seconds are those of `simple_evaluate` alone, without start and load.

Request: {"work": "piqa", "limit": 100}
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from peer_io import Answer, Request, fail, need, serve

TASK = """task: local_piqa
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {file}
output_type: multiple_choice
validation_split: validation
doc_to_text: "Question: {{{{goal}}}}\\nAnswer:"
doc_to_target: label
doc_to_choice: "{{{{[sol1, sol2]}}}}"
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
  - metric: acc_norm
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""


def write_task(data: Path, folder: Path) -> None:
    """A task file and its records, each with its label, in `folder`."""
    records, labels = data / "piqa/valid.jsonl", data / "piqa/valid-labels.lst"
    for path in (records, labels):
        if not path.is_file():
            fail(f"no file {path}")
    pairs = zip(records.read_text().splitlines(), labels.read_text().split(), strict=True)
    merged = folder / "piqa.jsonl"
    merged.write_text("".join(json.dumps({**json.loads(row), "label": int(label)}) + "\n" for row, label in pairs))
    (folder / "local_piqa.yaml").write_text(TASK.format(file=merged))


class Harness:
    """lm-eval with its model loaded and its task found."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        need("torch").set_num_threads(args.threads)
        self.lm_eval = need("lm_eval")
        model_class: Any = need("lm_eval.models.huggingface").HFLM
        self.model = model_class(
            pretrained=str(args.model), device="cpu", dtype="float32", batch_size=args.batch, max_length=args.max_length
        )
        self.tasks = need("lm_eval.tasks").TaskManager(include_path=str(folder), include_defaults=False)

    def answer(self, request: Request) -> Answer:
        if request.get("work") != "piqa":
            return {"error": f"unknown work {request.get('work')!r}"}
        start = time.perf_counter()
        found = self.lm_eval.simple_evaluate(
            model=self.model,
            tasks=["local_piqa"],
            task_manager=self.tasks,
            limit=request["limit"],
            bootstrap_iters=0,
            log_samples=False,
        )
        seconds = time.perf_counter() - start
        scores = found["results"]["local_piqa"]
        picked = {name: scores[f"{name},none"] for name in ("acc", "acc_norm")}
        return {"seconds": seconds, "samples": [seconds], **picked}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--data", type=Path, required=True, help="folder with piqa/valid.jsonl and its labels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--max-length", type=int, default=2048)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(args.data, folder)
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder / "cache")}
        os.environ.update(offline)
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see worker_transformers.py
        serve(Harness(args, folder).answer)


if __name__ == "__main__":
    main()
