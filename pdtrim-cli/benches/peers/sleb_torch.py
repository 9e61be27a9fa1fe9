#!/usr/bin/env python3
"""A SLEB search as its authors wrote it (arXiv:2402.09025), timed: greedy removal of the block whose loss costs least.

Every candidate is one forward pass of the model without that block, and without those already removed, over all
calibration windows, one window after the other; its score is the mean NLL of every next token. Nothing is kept from one
candidate to the next. With the first and last block protected, 6 of 30 takes 28 + 27 + 26 + 25 + 24 + 23 = 153
evaluations; with --protect none, 165.

Only the first --evaluations of them are run. The rest is extrapolated: the time of an evaluation is taken to be
proportional to blocks + head, where the head (embedding, last norm, vocabulary projection, loss) is measured once and
expressed in blocks. What is measured and what is extrapolated is printed apart.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, Iterator

from peer_io import need, token_ids
from worker_transformers import load

Evaluation = dict[str, Any]
HEAD_TRIES = 2  # the quicker one counts


class Search:
    """A model whose blocks can be taken out, and the windows it is scored on."""

    def __init__(self, torch: Any, model: Any, windows: list[list[int]]) -> None:
        self.torch = torch
        self.model = model
        self.blocks = list(model.model.layers)
        self.windows = torch.tensor(windows)

    def keep(self, kept: list[int]) -> None:
        self.model.model.layers = self.torch.nn.ModuleList(self.blocks[i] for i in kept)

    def loss(self, kept: list[int]) -> float:
        """Mean NLL of every next token over all windows, by the kept blocks alone."""
        self.keep(kept)
        total = 0.0
        for ids in self.windows:
            logits = self.model(ids[None], use_cache=False).logits[0, :-1].float()
            total += self.torch.nn.functional.cross_entropy(logits, ids[1:], reduction="sum").item()
        return total / (self.windows.shape[0] * (self.windows.shape[1] - 1))

    def seconds(self, kept: list[int]) -> tuple[float, float]:
        start = time.perf_counter()
        loss = self.loss(kept)
        return time.perf_counter() - start, loss


def candidates_per_step(blocks: int, count: int, at_each_end: int) -> list[tuple[int, int]]:
    """(candidates, blocks left while one of them is tried) of each greedy step, so many protected at each end."""
    return [(blocks - 2 * at_each_end - step, blocks - 1 - step) for step in range(count)]


def evaluations(search: Search, count: int, at_each_end: int) -> Iterator[Evaluation]:
    """The greedy loop, one evaluation at a time."""
    removed: list[int] = []
    blocks = range(len(search.blocks))
    free = range(at_each_end, len(blocks) - at_each_end)
    for _ in range(count):
        losses: dict[int, float] = {}
        for candidate in (i for i in free if i not in removed):
            kept = [i for i in blocks if i not in (*removed, candidate)]
            seconds, losses[candidate] = search.seconds(kept)
            yield {"without": [*removed, candidate], "seconds": seconds, "loss": losses[candidate]}
        removed.append(min(losses, key=losses.__getitem__))


def head_in_blocks(search: Search) -> float:
    """Cost of what is not a block, in blocks: from passes with no block at all and with all of them."""
    every = list(range(len(search.blocks)))
    search.seconds(every)  # warm-up
    bare, whole = (min(search.seconds(kept)[0] for _ in range(HEAD_TRIES)) for kept in ([], every))
    return bare / max((whole - bare) / len(search.blocks), 1e-9)


def extrapolate(measured: list[Evaluation], steps: list[tuple[int, int]], head: float) -> float:
    """Seconds of the whole search: what was measured, plus the rest by the number of blocks."""
    sizes = [left for candidates, left in steps for _ in range(candidates)]
    spent = sum(evaluation["seconds"] for evaluation in measured)
    per_block = spent / sum(left + head for left in sizes[: len(measured)])
    return spent + per_block * sum(left + head for left in sizes[len(measured) :])


def run(args: argparse.Namespace) -> dict[str, Any]:
    torch, model = load(args.model, "f32", args.threads)
    at_each_end = {"ends": 1, "none": 0}[args.protect]
    ids = token_ids(args.windows * args.window_tokens)
    windows = [ids[i : i + args.window_tokens] for i in range(0, len(ids), args.window_tokens)]
    with torch.inference_mode():
        head = head_in_blocks(Search(torch, model, windows[:1]))  # also the warm-up
        search = Search(torch, model, windows)
        measured = []
        for evaluation in evaluations(search, args.count, at_each_end):
            measured.append(evaluation)
            print(f"  without {evaluation['without']}: {evaluation['seconds']:.2f} s", file=sys.stderr)
            if len(measured) == args.evaluations:
                break
    steps = candidates_per_step(len(search.blocks), args.count, at_each_end)
    return {
        "measured_evaluations": len(measured),
        "measured_seconds": sum(evaluation["seconds"] for evaluation in measured),
        "all_evaluations": sum(candidates for candidates, _ in steps),
        "extrapolated_seconds": extrapolate(measured, steps, head),
        "head_in_blocks": head,
        "evaluations": measured,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--count", type=int, default=6, help="blocks to remove")
    parser.add_argument("--windows", type=int, default=10)
    parser.add_argument("--window-tokens", type=int, default=1024)
    parser.add_argument("--evaluations", type=int, default=10, help="evaluations to run; the rest is extrapolated")
    parser.add_argument("--protect", choices=["ends", "none"], default="ends", help="blocks that are never tried")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    args = parser.parse_args()
    found = run(args)
    if args.json:
        print(json.dumps(found))
        return
    print(f"measured:     {found['measured_evaluations']} evaluations, {found['measured_seconds']:.1f} s")
    print(f"extrapolated: {found['all_evaluations']} evaluations, {found['extrapolated_seconds']:.0f} s")


if __name__ == "__main__":
    main()
