#!/usr/bin/env python3
"""The benchmarks' published files, as the records that lm-evaluation-harness' own tasks are made of.

The harness takes its data from the Hugging Face hub. The task files of `lm_eval_tasks` read the same items from JSON
lines in the current folder, which this module writes from the files their authors publish. By hand:

python3 lm_eval_data.py --data DATA --out RECORDS
cd RECORDS && lm_eval run --model hf --model_args pretrained=MODEL --tasks piqa --include_path .../lm_eval_tasks
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Iterable

from peer_io import fail

Record = dict[str, Any]
Reshape = Callable[[str, str], list[Record]]  # the published file's text and that of its labels, where they lie apart

CHOICE_TASKS = ("piqa", "arc_easy", "winogrande", "boolq", "hellaswag")
TEXT_TASKS = ("wikitext",)

# The last word of each is what is scored.
SENTENCES = (
    "Mara left the lamp on for her brother, and when he came home at last he found the house dark and asked who had"
    " put out the lamp",
    "The baker sold bread and nothing else. People came from three villages away, and all of them came for the bread",
    "After the long drought everyone in the valley looked at the sky each morning and hoped to see some rain",
)


def lines(text: str) -> list[str]:
    """The lines that are not blank. `splitlines` would also cut at line separators inside JSON strings."""
    return [line for line in text.split("\n") if line.strip()]


def as_published(records: str, _: str) -> list[Record]:
    return [json.loads(line) for line in lines(records)]


def piqa(records: str, labels: str) -> list[Record]:
    pairs = zip(lines(records), labels.split(), strict=True)
    return [{**json.loads(record), "label": int(label)} for record, label in pairs]


def arc(records: str, _: str) -> list[Record]:
    return [arc_record(json.loads(line)) for line in lines(records)]


def arc_record(published: Record) -> Record:
    """The hub's form: the question is a string, and texts and labels are lists beside it."""
    choices = published["question"]["choices"]
    columns = {column: [choice[column] for choice in choices] for column in ("text", "label")}
    question = {"question": published["question"]["stem"], "choices": columns}
    return {"id": published["id"], **question, "answerKey": published["answerKey"]}


def boolq(records: str, _: str) -> list[Record]:
    return [boolq_record(json.loads(line)) for line in lines(records)]


def boolq_record(published: Record) -> Record:
    """SuperGLUE's form as on the hub: the passage begins with its title, and the label is 0 or 1."""
    title = f"{published['title']} -- " if "title" in published else ""
    label = published["answer"] if "answer" in published else published["label"]
    index = ("false", "true").index(str(label).lower())
    return {"question": published["question"], "passage": title + published["passage"], "label": index}


def wikitext(text: str, _: str) -> list[Record]:
    return [{"page": page} for page in wikitext_pages(text)]


def wikitext_pages(text: str) -> list[str]:
    """Pages as EleutherAI/wikitext_document_level has them: a heading of the first level begins one, and what stands
    before the first heading is a page only if it is not blank."""
    pages: list[list[str]] = [[]]
    for line in text.split("\n"):
        if is_page_heading(line):
            pages.append([])
        pages[-1].append(line)
    joined = ["\n".join(page) for page in pages]
    return [page for page in joined if page.strip()]


def is_page_heading(line: str) -> bool:
    closed = line.replace("= = =", "===").replace("= =", "==").strip()
    return closed.startswith("= ") and closed.endswith(" =")


@dataclass(frozen=True)
class Source:
    """Where a task's items are published, tried in the order of our own task file, and how they become records."""

    files: tuple[str, ...]
    reshape: Reshape
    labels: str | None = None  # beside the file

    def path(self, data: Path) -> Path:
        found = next((data / name for name in self.files if (data / name).is_file()), None)
        return found or fail(f"no file {' or '.join(self.files)} in {data}")

    def paths(self, data: Path) -> list[Path]:
        """The file, and that of the labels."""
        path = self.path(data)
        if self.labels is None:
            return [path]
        labels = path.with_name(self.labels)
        return [path, labels] if labels.is_file() else fail(f"no file {labels}")

    def records(self, data: Path) -> list[Record]:
        texts = [path.read_text(encoding="utf-8") for path in self.paths(data)]
        return self.reshape(texts[0], texts[-1])


SOURCES = {
    "piqa": Source(("piqa/valid.jsonl",), piqa, "valid-labels.lst"),
    "arc_easy": Source(("arc-easy/ARC-Easy-Test.jsonl", "ARC-Easy/ARC-Easy-Test.jsonl"), arc),
    "winogrande": Source(("winogrande/dev.jsonl", "winogrande_1.1/dev.jsonl"), as_published),
    "boolq": Source(("superglue/BoolQ/val.jsonl", "BoolQ/val.jsonl", "boolq/dev.jsonl"), boolq),
    "hellaswag": Source(("hellaswag/hellaswag.jsonl", "hellaswag/hellaswag_val.jsonl"), as_published),
    "wikitext": Source(("wikitext-2-raw/wiki.test.raw", "wiki.test.raw"), wikitext),
    "lambada_openai": Source(("lambada/lambada_test.jsonl", "lambada_test.jsonl"), as_published),
}


def write_records(data: Path, folder: Path, tasks: Iterable[str]) -> None:
    """Writes each task's records to `folder`, where the task files of `lm_eval_tasks` expect them."""
    for task in tasks:
        records = SOURCES[task].records(data)
        text = "".join(json.dumps(record) + "\n" for record in records)
        (folder / f"{task}.jsonl").write_text(text, encoding="utf-8")


def write_slice(data: Path, folder: Path, task: str, first: int, count: int) -> None:
    """`count` items of a task from `first` on, in `folder` as they are published: data for `pdtrim eval`."""
    for path in SOURCES[task].paths(data):
        kept = lines(path.read_text(encoding="utf-8"))[first : first + count]
        target = folder / path.relative_to(data)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def write_sentences(folder: Path) -> None:
    """Our sentences in the form of the published LAMBADA file: enough for a check, and ours to hand on."""
    path = folder / SOURCES["lambada_openai"].files[0]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in SENTENCES), encoding="utf-8")


def sha256(paths: Iterable[Path]) -> str:
    """One hash of files' contents, in the order given."""
    total = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the published files")
    parser.add_argument("--out", type=Path, required=True, help="folder for the records; made where it is missing")
    parser.add_argument("--tasks", default=",".join(CHOICE_TASKS), help=f"of {', '.join(SOURCES)}")
    args = parser.parse_args()
    tasks = args.tasks.split(",")
    if unknown := [task for task in tasks if task not in SOURCES]:
        fail(f"no task {', '.join(unknown)}; there are {', '.join(SOURCES)}")
    args.out.mkdir(parents=True, exist_ok=True)
    write_records(args.data, args.out, tasks)


if __name__ == "__main__":
    main()
