#!/usr/bin/env python3
"""Scores the same items with `pdtrim eval` and with lm-evaluation-harness, and compares them item by item.

Both read the same f32 weights and the same published files; lm-eval through the task files of `lm_eval_tasks`, which
are checked against those it ships. Exit code 1 where a log-likelihood is beyond the tolerance, a metric is not equal,
or a standard error is not equal to four digits. --reference keeps lm-eval's side, which takes most of the time, in a
file: it is scored anew only for other weights, data, tasks or limits.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pdtrim_eval
from item_comparison import Comparison, Item, compare, our_item, table, their_item
from lm_eval_data import CHOICE_TASKS, SOURCES, TEXT_TASKS, sha256, write_sentences
from lm_eval_harness import TASK_FILES, Harness
from peer_io import fail, write_json
from worker_pool import SideError

SENTENCES = "sentences"  # the task lambada_openai on sentences of ours, for which --data needs no file
MODEL_FILES = ("*.safetensors", "*config.json", "tokenizer*.json", "special_tokens_map.json")
Entry = dict[str, Any]  # lm-eval's side of a task: "key", "items", "scores"


@dataclass
class Reference:
    """What lm-eval said so far, in a file if there is to be one."""

    path: Path | None
    entries: list[Entry] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path | None) -> Reference:
        if path is None or not path.is_file():
            return cls(path)
        try:
            return cls(path, json.loads(path.read_text(encoding="utf-8"))["entries"])
        except (ValueError, KeyError, TypeError) as error:
            fail(f"{path} is no reference file ({type(error).__name__}: {error})")

    def find(self, key: Item) -> Entry | None:
        return next((entry for entry in self.entries if entry["key"] == key), None)

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        if self.path is not None:
            write_json(self.path, {"entries": self.entries})


class Sides:
    """Both sides on the same model and data."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args = args
        self.folder = folder
        self.reference = Reference.open(args.reference)

    def compare(self, name: str) -> Comparison:
        task, data = self.task_and_data(name)
        theirs = self.lm_eval(task, data)
        ours = self.pdtrim(task, data)
        scores = (ours.scores(task), theirs["scores"])
        return compare(name, [our_item(line) for line in ours.items], theirs["items"], scores, self.args.tolerance)

    def task_and_data(self, name: str) -> tuple[str, Path]:
        if name != SENTENCES:
            return name, self.args.data.resolve()
        folder = self.folder / SENTENCES
        write_sentences(folder)
        return "lambada_openai", folder

    def pdtrim(self, task: str, data: Path) -> pdtrim_eval.Evaluation:
        args = self.args
        return pdtrim_eval.evaluate(args.pdtrim, args.model, data, task, args.limit, args.threads)

    def lm_eval(self, task: str, data: Path) -> Entry:
        key = self.key(task, data)
        entry = self.reference.find(key)
        if entry is None:
            print(f"{task} with lm-eval ...", file=sys.stderr)
            entry = {"key": key, **self.scored(task, data)}
            self.reference.add(entry)
        return entry

    def scored(self, task: str, data: Path) -> Entry:
        batch = 1 if task in TEXT_TASKS else self.args.batch  # the logits of a single page fill a gigabyte
        found = self.harness.evaluate(task, data, self.args.limit, batch)
        items = [their_item(sample) for sample in found["samples"][task]]
        return {"batch": batch, "items": items, "scores": found["results"][task]}

    @cached_property
    def harness(self) -> Harness:
        records = self.folder / "records"
        records.mkdir()
        return Harness(self.args.model, records, self.args.threads, self.args.max_length)

    def key(self, task: str, data: Path) -> Item:
        """All that lm-eval's answers depend on, but for what f32 sums leave open (batches, torch's version)."""
        return {
            "task": task,
            "limit": self.args.limit,
            "max_length": self.args.max_length,
            "model": self.model_hash,
            "data": sha256(SOURCES[task].paths(data)),
            "task_file": sha256([TASK_FILES / f"{task}.yaml"]),
            "lm_eval": version("lm_eval"),
        }

    @cached_property
    def model_hash(self) -> str:
        return sha256(sorted({path for pattern in MODEL_FILES for path in self.args.model.glob(pattern)}))


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdtrim", type=Path, required=True, help="the binary, built with --release")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder with f32 weights")
    parser.add_argument("--data", type=Path, required=True, help="folder with the published files")
    parser.add_argument("--tasks", default=",".join(CHOICE_TASKS), help=f"of {', '.join([*SOURCES, SENTENCES])}")
    parser.add_argument("--limit", type=int, default=200, help="items, or pages, of each task")
    parser.add_argument("--tolerance", type=float, default=0.02, help="of a log-likelihood")
    parser.add_argument("--batch", type=int, default=8, help="lm-eval's, except for texts")
    parser.add_argument("--max-length", type=int, help="lm-eval's window in tokens [default: the model's]")
    parser.add_argument("--threads", type=int, default=2, help="for both sides")
    parser.add_argument("--reference", type=Path, help="file that keeps lm-eval's side")
    parser.add_argument("--output", type=Path, help="JSON file for what was found")
    return parser.parse_args(given)


def check(args: argparse.Namespace) -> list[str]:
    """The tasks asked for."""
    names = [name.strip() for name in args.tasks.split(",")]
    if unknown := [name for name in names if name not in (*SOURCES, SENTENCES)]:
        fail(f"no task {', '.join(unknown)}; there are {', '.join([*SOURCES, SENTENCES])}")
    if not args.pdtrim.is_file():
        fail(f"no file {args.pdtrim}")
    if not (args.model / "config.json").is_file():
        fail(f"no Hugging Face folder at {args.model}")
    if find_spec("lm_eval") is None:  # imported only where its side is not in the reference
        fail("no package lm_eval; pip install -r requirements.txt")
    return names


def main(given: list[str] | None = None) -> int:
    """0 where everything is the same, else 1."""
    args = arguments(given)
    names = check(args)
    found: list[Comparison] = []
    failures: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(args, Path(folder))
        for name in names:
            try:
                found.append(sides.compare(name))
            except SideError as error:
                failures[name] = str(error)
    if found:
        print(table(found))
    print("".join(f"error: {name}: {message}\n" for name, message in failures.items()), end="", file=sys.stderr)
    if args.output is not None:
        asked = {"tolerance": args.tolerance, "limit": args.limit}
        tasks = [comparison.to_json() for comparison in found]
        write_json(args.output, {**asked, "tasks": tasks, "failures": failures})
    return 0 if not failures and all(comparison.is_same() for comparison in found) else 1


if __name__ == "__main__":
    sys.exit(main())
