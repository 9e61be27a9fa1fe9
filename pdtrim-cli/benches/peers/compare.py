#!/usr/bin/env python3
"""Runs PDTrim and its peers on the same work, in turns on one machine, and prints how much faster PDTrim is.

A pair is one sample of each side, taken one right after the other; which goes first alternates. The speedup of a pair is
peer seconds / our seconds (above 1: PDTrim is faster), and the table has the median of these with the lowest and highest
pair. All samples go to --output after every workload. This script needs the standard library only; what the peers need
is in requirements.txt and may live in another Python (--python).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from peer_io import aligned, fail, write_json
from worker_pool import Pool, SideError
from workloads import Catalogue, Measure, Sample, Workload

Result = dict[str, Any]
HEADINGS = ("work", "peer", "ours", "peer's", "speedup", "lowest-highest", "pairs")


def measure_pairs(workload: Workload, pairs: int, pause: float) -> Result:
    """Samples of both sides in turns, with the order they were taken in."""
    warm_up = (workload.warm_up or workload.peer)() if workload.warm_up_peer else {}
    sides: dict[str, Measure] = {"ours": workload.ours, "peer": workload.peer}
    samples: dict[str, list[Sample]] = {"ours": [], "peer": []}
    order = []
    for pair in range(min(pairs, workload.most_pairs or pairs)):
        for side in ("ours", "peer") if pair % 2 == 0 else ("peer", "ours"):
            time.sleep(pause)  # lets a side's spinning threads come to rest
            load = os.getloadavg()[0]
            samples[side].append({**sides[side](), "load_before": load})
            order.append(side)
    notes = [note for note in (workload.note, warm_up.get("note"), *disagreements(workload, samples)) if note]
    kept = {"warm_up": warm_up} if workload.warm_up else {}
    names = {"work": workload.name, "peer": workload.peer_name}
    return {**names, "notes": notes, **kept, "order": order, **summary(samples)}


def disagreements(workload: Workload, samples: dict[str, list[Sample]]) -> list[str]:
    """Where the two sides did not do the same work or did not find the same."""
    pairs = zip(samples["ours"], samples["peer"], strict=True)
    said = [(name, ours.get(name), peer.get(name)) for ours, peer in pairs for name in workload.must_agree]
    found = [f"NOT THE SAME: {name} {ours} and {peer}" for name, ours, peer in said if ours != peer]
    return list(dict.fromkeys(found))


def summary(samples: dict[str, list[Sample]]) -> Result:
    ours = [sample["seconds"] for sample in samples["ours"]]
    peer = [sample["seconds"] for sample in samples["peer"]]
    speedups = [theirs / our for our, theirs in zip(ours, peer, strict=True)]
    return {
        "our_median_seconds": statistics.median(ours),
        "peer_median_seconds": statistics.median(peer),
        "speedup": statistics.median(speedups),
        "speedup_lowest": min(speedups),
        "speedup_highest": max(speedups),
        "speedups": speedups,
        "our_samples": samples["ours"],
        "peer_samples": samples["peer"],
    }


def duration(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def table(results: list[Result]) -> str:
    notes = [f"{result['work']}: {note}" for result in results for note in result["notes"]]
    return "\n".join([*aligned([HEADINGS, *map(table_row, results)]), *([""] if notes else []), *notes])


def table_row(result: Result) -> tuple[str, ...]:
    span = f"{result['speedup_lowest']:.2f}-{result['speedup_highest']:.2f}"
    ours, peer = duration(result["our_median_seconds"]), duration(result["peer_median_seconds"])
    return (result["work"], result["peer"], ours, peer, f"{result['speedup']:.2f}x", span, str(len(result["speedups"])))


def machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count(), "system": platform.platform()}


def chosen(workloads: list[Workload], only: str | None) -> list[Workload]:
    if only is None:
        return workloads
    by_name = {workload.name: workload for workload in workloads}
    names = [name.strip() for name in only.split(",")]
    unknown = [name for name in names if name not in by_name]
    if unknown:
        fail(f"no workload {', '.join(unknown)}; there are {', '.join(by_name)}")
    return [by_name[name] for name in names]


def arguments(given: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdtrim", type=Path, required=True, help="the binary, built with --release")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder with f32 weights, for both sides")
    parser.add_argument("--gguf", type=Path, help="folder with f32.gguf, f16.gguf, bf16.gguf (make_gguf.py)")
    parser.add_argument("--data", type=Path, help="folder with the published files of lm-eval's tasks")
    parser.add_argument("--only", help="workloads, separated by commas (default: all; --list names them)")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="for both sides")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for pdtrim and transformers")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds of rest before every sample")
    parser.add_argument("--python", default=sys.executable, help="the Python that has the peers' packages")
    parser.add_argument("--sleb-evaluations", type=int, default=10, help="evaluations the torch SLEB loop really runs")
    parser.add_argument("--sleb-protect", choices=["ends", "none"], default="ends", help="as `bench search` does")
    parser.add_argument("--sleb-pairs", type=int, default=1, help="most pairs of the workload sleb")
    parser.add_argument("--lm-eval-items", type=int, default=200, help="items of each task, run once in full")
    parser.add_argument("--lm-eval-slice", type=int, default=20, help="items of a pair, other ones in every pair")
    parser.add_argument("--lm-eval-batches", type=batch_sizes, default="1,4,8,16,32", help="of which the best is used")
    parser.add_argument("--output", type=Path, help="JSON file for all samples")
    parser.add_argument("--list", action="store_true", help="name the workloads and stop")
    args = parser.parse_args(given)
    if args.pairs < 1 or args.sleb_pairs < 1:
        parser.error("at least one pair")
    if not 1 <= args.lm_eval_slice <= args.lm_eval_items:
        parser.error("a slice has at least one item and no more than there are")
    return args


def batch_sizes(text: str) -> list[int]:
    return [int(size) for size in text.split(",")]


def check_paths(args: argparse.Namespace) -> None:
    if not args.pdtrim.is_file():
        fail(f"no file {args.pdtrim}; build it with cargo build --release")
    if not (args.model / "config.json").is_file():
        fail(f"no Hugging Face folder at {args.model}")
    for folder in (args.gguf, args.data):
        if folder is not None and not folder.is_dir():
            fail(f"no folder {folder}")
    if args.output is not None and not args.output.resolve().parent.is_dir():
        fail(f"no folder {args.output.resolve().parent}")


def main(given: list[str] | None = None) -> int:
    """0, or 1 where a workload failed; the others are still measured."""
    args = arguments(given)
    pool = Pool()
    workloads = Catalogue(args, pool).all()
    if args.list:
        print("\n".join(workload.name for workload in workloads))
        return 0
    check_paths(args)
    results: list[Result] = []
    failures: dict[str, str] = {}
    for workload in chosen(workloads, args.only):
        print(f"{workload.name} against {workload.peer_name} ...", file=sys.stderr)
        try:
            results.append(measure_pairs(workload, args.pairs, args.pause))
        except SideError as error:
            failures[workload.name] = str(error)
            print(f"error: {workload.name}: {error}", file=sys.stderr)
        if args.output is not None:
            settings = {"pairs": args.pairs, "threads": args.threads, "pause_seconds": args.pause}
            write_json(args.output, {"machine": machine(), **settings, "results": results, "failures": failures})
    pool.close_all()
    if results:
        print(table(results))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
