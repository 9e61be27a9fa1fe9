#!/usr/bin/env python3
"""Prints a results file of `pdtrim eval` with lm-evaluation-harness' own table maker.

Before that, the file goes through what reads results files in lm-eval: the types of `lm_eval.result_schema`, `datasets`
(with which the evaluation tracker reads them back), and the loggers for wandb and trackio. What they would miss is
listed, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Iterator

from peer_io import fail, need

Results = dict[str, Any]
BY_TASK = ("configs", "versions", "n-shot", "higher_is_better", "n-samples")
OF_THE_RUN = ("results", "group_subtasks", *BY_TASK, "config", "model_source", "model_name", "model_name_sanitized")
CONFIG = ("model", "model_args")  # scripts/zeno_visualize.py names a run by the latter
TASK_CONFIG = ("output_type", "metric_list")  # the loggers and zeno_visualize.py take their columns from these


def missing(results: Results, fixed: frozenset[str], counts: frozenset[str]) -> Iterator[str]:
    """What lm-eval's readers look up and the file does not have; `fixed` and `counts` are keys its schema requires of a
    task's results and numbers of samples."""
    yield from absent(results, OF_THE_RUN, "")
    yield from absent(results.get("config", {}), CONFIG, "config.")
    for task, scores in results.get("results", {}).items():
        if results.get("group_subtasks", {}).get(task):
            continue  # a group, of which the readers want nothing but its scores
        for name in BY_TASK:
            yield from absent(results.get(name, {}), (task,), f"{name}.")
        config = results.get("configs", {}).get(task, {})
        yield from absent(config, TASK_CONFIG, f"configs.{task}.")
        yield from absent(results.get("n-samples", {}).get(task, {}), counts, f"n-samples.{task}.")
        yield from absent(scores, fixed, f"results.{task}.")
        yield from missing_of_metrics(results, task)


def missing_of_metrics(results: Results, task: str) -> Iterator[str]:
    """Of every metric: which way is better, its aggregation, and a standard error, "N/A" where there is none."""
    scores = results["results"][task]
    described = {entry.get("metric") for entry in results.get("configs", {}).get(task, {}).get("metric_list", [])}
    for key in scores:
        name, comma, kind = key.partition(",")
        if not comma or name.endswith("_stderr"):
            continue
        yield from absent(results.get("higher_is_better", {}).get(task, {}), (name,), f"higher_is_better.{task}.")
        yield from absent(scores, (f"{name}_stderr,{kind}",), f"results.{task}.")
        if name not in described:
            yield f"configs.{task}.metric_list has no {name}"


def absent(found: dict[str, Any], names: Any, prefix: str) -> list[str]:
    return [f"{prefix}{name}" for name in sorted(names) if name not in found]


def schema_keys() -> tuple[frozenset[str], frozenset[str]]:
    schema = need("lm_eval.result_schema")
    return schema._TaskMetrics.__required_keys__, schema._SampleCount.__required_keys__


def through_datasets(path: Path, results: Results) -> Iterator[str]:
    """As `EvaluationTracker.recreate_metadata_card` reads the newest file: one row, with `results` as a structure."""
    with tempfile.TemporaryDirectory() as cache:
        os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
        load = need("datasets").load_dataset
        try:
            read = load("json", data_files=str(path), split="train", cache_dir=cache)["results"][0]
        except Exception as error:  # whatever the library raises is what a reader would see
            yield f"datasets cannot read the file: {type(error).__name__}: {error}"
            return
    for task, scores in results["results"].items():
        yield from (f"datasets reads no {task} {key}" for key, value in scores.items() if read[task].get(key) != value)


def through_loggers(results: Results) -> Iterator[str]:
    """The loggers, without the services they send to: what they make of the file has every metric."""
    wandb = bare("lm_eval.loggers.wandb_logger", "WandbLogger")
    trackio = bare("lm_eval.loggers.trackio_logger", "TrackioLogger")
    for logger in (wandb, trackio):
        logger.post_init(results)
    seen = {"wandb": wandb._sanitize_results_dict()[1], "trackio": trackio._flatten_results_for_log()}
    for task, scores in results["results"].items():
        for key, value in scores.items():
            if isinstance(value, float):
                name = f"{task}/{key.removesuffix(',none')}"
                yield from (f"{reader} logs no {name}" for reader, logged in seen.items() if logged.get(name) != value)


def bare(module: str, name: str) -> Any:
    """A logger that was not started: its constructor would want a service."""
    kind = getattr(need(module), name)
    return kind.__new__(kind)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="what `pdtrim eval --json` printed")
    path = parser.parse_args().results
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        fail(f"cannot read {path}: {error}")
    problems = list(missing(results, *schema_keys()))
    if "results" in results:
        problems += [*through_datasets(path, results), *through_loggers(results)]
        make_table = need("lm_eval.utils").make_table
        print(make_table(results))
        if "groups" in results:
            print(make_table(results, "groups"))
    for problem in problems:
        print(f"missing: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
