"""Scoring a task's first items against lm-eval: its best batch size, both sides in full once, then slices in turns."""

from __future__ import annotations

import itertools
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

import pdtrim_eval
from item_comparison import accuracies
from lm_eval_data import write_slice
from worker_pool import Pool, SideError, lm_eval_command

Sample = dict[str, Any]


class SlicedTask:
    """One task for both sides; each call of a side takes its next slice.

    Ours is timed from process start to end, with the load of the weights; lm-eval's side is the scoring alone. That is
    to our disadvantage, the more so the shorter the slice.
    """

    def __init__(self, task: str, args: Namespace, pool: Pool) -> None:
        self.task = task
        self.args = args
        self.pool = pool
        self.batch = args.lm_eval_batches[0]
        self.our_slices, self.peer_slices = itertools.count(), itertools.count()

    def n_slices(self) -> int:
        return self.args.lm_eval_items // self.args.lm_eval_slice

    def ours(self) -> Sample:
        """The next slice, from a data folder that holds nothing else."""
        size = self.args.lm_eval_slice
        with tempfile.TemporaryDirectory() as name:
            write_slice(self.data(), Path(name), self.task, next(self.our_slices) * size, size)
            return self.our_sample(Path(name), size)

    def peer(self) -> Sample:
        size = self.args.lm_eval_slice
        return self.ask(next(self.peer_slices) * size, size, self.batch)

    def in_full(self) -> Sample:
        """Finds lm-eval's best batch size on the first slice, and runs all items on both sides once."""
        batches, size = self.args.lm_eval_batches, self.args.lm_eval_slice
        self.ask(0, size, batches[0])  # warms up
        tried = {batch: self.ask(0, size, batch)["seconds"] for batch in batches}
        self.batch = min(tried, key=tried.__getitem__)
        items = self.args.lm_eval_items
        one, ours = self.our_sample(self.data(), 1), self.our_sample(self.data(), items)
        peer = self.ask(0, items, self.batch)
        note = (
            f"all {items} items once: ours {ours['seconds']:.2f} s ({one['seconds']:.2f} s with a single item), lm-eval"
            f" {peer['seconds']:.2f} s at its best batch size of {self.batch}, {peer['seconds'] / ours['seconds']:.2f}x"
        )
        return {"note": note, "batches": tried, "batch": self.batch, "our_first_item": one, "ours": ours, "peer": peer}

    def our_sample(self, data: Path, limit: int) -> Sample:
        args = self.args
        found = pdtrim_eval.evaluate(args.pdtrim, args.model, data, self.task, limit, args.threads)
        return {"seconds": found.seconds, **accuracies(found.scores(self.task))}

    def ask(self, first: int, limit: int, batch: int) -> Sample:
        command = lm_eval_command(self.args.model.resolve(), self.data(), self.args.threads, self.args.python)
        return self.pool.ask(command, {"work": self.task, "first": first, "limit": limit, "batch": batch})

    def data(self) -> Path:
        if self.args.data is None:
            raise SideError("lm-eval needs --data, a folder with the published files")
        return self.args.data.resolve()
