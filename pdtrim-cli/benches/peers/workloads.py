"""The works that are compared: what each side runs, and how its seconds are taken."""

from __future__ import annotations

import json
import time
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from lm_eval_data import CHOICE_TASKS
from lm_eval_work import SlicedTask
from peer_io import Request
from worker_pool import HERE, Pool, SideError, Worker, llama_cpp_command, run_process, transformers_command

Sample = dict[str, Any]  # "seconds", and whatever else is worth keeping
Measure = Callable[[], Sample]
READ_BUFFER = 1 << 20
DECODE_STEPS = 32


@dataclass(frozen=True)
class Workload:
    """One comparison. Seconds are per step for decode and for the whole work otherwise."""

    name: str
    peer_name: str
    ours: Measure
    peer: Measure
    warm_up_peer: bool = True
    warm_up: Measure | None = None  # instead of the peer's own work; its sample is kept
    most_pairs: int | None = None
    note: str = ""
    must_agree: tuple[str, ...] = ()  # what both sides' samples say of their work, beside the seconds


def our_sample(stdout: str, path: list[str]) -> Sample:
    """The adapter to `pdtrim bench --json`: one object with a list "samples", in seconds, at its top or in its first
    measurement. `bench decode` samples are seconds per step, as the workers' are."""
    try:
        found = json.loads(stdout)
        measurement = found if "samples" in found else found["measurements"][0]
        (seconds,) = measurement["samples"]
        facts = {name: found[name] for name in ("evaluations",) if name in found}
        return {"seconds": float(seconds), **facts}
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise SideError(f"{' '.join(path)} printed no single sample ({type(error).__name__}: {error})") from error


class Catalogue:
    """Builds the workloads from the command line."""

    def __init__(self, args: Namespace, pool: Pool) -> None:
        self.args = args
        self.pool = pool

    # The two sides

    def bench(self, work: str, dtype: str, warmup: int = 1, **flags: int) -> Measure:
        """One sample from a fresh `pdtrim bench`, after `warmup` runs in the same process that do not count."""
        args = self.args
        command = [str(args.pdtrim), "bench", work, "--model", str(args.model), "--dtype", dtype, "--device", args.device]
        command += [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", str(value))]
        command += ["--warmup", str(warmup), "--repeats", "1", "--json"]
        return lambda: our_sample(run_process(command, args.threads)[0], command[1:3])

    def generate_one(self) -> Sample:
        """Wall time from the start of `pdtrim generate` to its end after one token."""
        args = self.args
        command = [str(args.pdtrim), "generate", "The capital of France is", "--model", str(args.model)]
        _, seconds = run_process([*command, "--dtype", "f32", "--max-new-tokens", "1"], args.threads)
        return {"seconds": seconds}

    def transformers(self, dtype: str) -> list[str]:
        args = self.args
        return transformers_command(args.model, dtype, args.threads, args.python, args.device)

    def llama_cpp(self, kind: str) -> list[str]:
        if self.args.gguf is None:
            raise SideError("llama.cpp needs --gguf, a folder with f32.gguf, f16.gguf and bf16.gguf")
        return llama_cpp_command(self.args.gguf / f"{kind}.gguf", self.args.threads, self.args.python)

    def ask(self, command: Callable[[], list[str]], request: Request) -> Measure:
        return lambda: self.pool.ask(command(), request)

    # Workloads

    def against_transformers(self) -> list[Workload]:
        context = 512
        prefill, decode = {"work": "prefill", "batch": 1}, {"work": "decode", "context": context}
        rows: list[tuple[str, str, str, Measure, Request]] = [
            ("prefill-512", "f32", "f32", self.prefill(512, "f32"), {**prefill, "tokens": 512}),
            ("prefill-2048", "f32", "f32", self.prefill(2048, "f32"), {**prefill, "tokens": 2048}),
            ("prefill-512-bf16", "bf16", "bf16", self.prefill(512, "bf16"), {**prefill, "tokens": 512}),
            (
                "prefill-2048-bf16",
                "bf16",
                "bf16",
                self.prefill(2048, "bf16"),
                {**prefill, "tokens": 2048},
            ),
            (
                "decode-512-bf16-both",
                "bf16",
                "bf16",
                self.decode(1, "bf16"),
                {**decode, "batch": 1, "new_tokens": DECODE_STEPS},
            ),
            ("decode-512", "f32", "f32", self.decode(1, "f32"), {**decode, "batch": 1, "new_tokens": DECODE_STEPS}),
            ("decode-512-bf16", "bf16", "f32", self.decode(1, "bf16"), {**decode, "batch": 1, "new_tokens": DECODE_STEPS}),
            ("decode-batch-8", "f32", "f32", self.decode(8, "f32"), {**decode, "batch": 8, "new_tokens": DECODE_STEPS}),
            (
                "perplexity-8192",
                "f32",
                "f32",
                self.bench("perplexity", "f32", tokens=8192, window=1024),
                {"work": "perplexity", "tokens": 8192, "window": 1024, "batch": 1},
            ),
        ]
        return [self.transformers_workload(*row) for row in rows]

    def transformers_workload(self, name: str, ours: str, peer: str, measure: Measure, request: Request) -> Workload:
        note = "" if ours == peer else f"ours {ours}, peer {peer}"
        return Workload(name, f"transformers {peer}", measure, self.ask(lambda: self.transformers(peer), request), note=note)

    def prefill(self, tokens: int, dtype: str) -> Measure:
        return self.bench("prefill", dtype, tokens=tokens, batch=1)

    def decode(self, batch: int, dtype: str) -> Measure:
        return self.bench("decode", dtype, context=512, batch=batch, new_tokens=DECODE_STEPS)

    def against_llama_cpp(self) -> list[Workload]:
        prefill = {"work": "prefill", "tokens": 512}
        decode = {"work": "decode", "context": 512, "new_tokens": DECODE_STEPS}
        found = []
        for kind in ("f32", "f16", "bf16"):
            pairs = (("prefill", self.prefill(512, kind), prefill), ("decode", self.decode(1, kind), decode))
            for work, ours, request in pairs:
                peer = self.ask(lambda kind=kind: self.llama_cpp(kind), request)
                found.append(Workload(f"llama-{work}-512-{kind}", f"llama.cpp {kind}", ours, peer))
        return found

    def sleb(self) -> Workload:
        def peer() -> Sample:
            args = self.args
            command = [args.python, str(HERE / "sleb_torch.py"), "--model", str(args.model), "--json"]
            command += ["--evaluations", str(args.sleb_evaluations), "--protect", args.sleb_protect]
            command += ["--threads", str(args.threads)]
            found = json.loads(run_process(command, args.threads)[0])
            return {"seconds": found["extrapolated_seconds"], "evaluations": found["all_evaluations"], "torch": found}

        ours = self.bench("search", "f32", warmup=0, count=6, windows=10, window_tokens=1024)
        note = f"peer extrapolated from its first {self.args.sleb_evaluations} evaluations"
        return Workload(
            "sleb",
            "SLEB in torch f32",
            ours,
            peer,
            warm_up_peer=False,
            most_pairs=self.args.sleb_pairs,
            note=note,
            must_agree=("evaluations",),
        )

    def load(self) -> Workload:
        def peer() -> Sample:
            start = time.perf_counter()
            n_bytes = sum(read_through(path) for path in sorted(self.args.model.glob("*.safetensors")))
            return {"seconds": time.perf_counter() - start, "bytes": n_bytes}

        return Workload("load", "plain read of the file", self.generate_one, peer, note="start to one token / read alone")

    def starts(self) -> list[Workload]:
        def start(command: Callable[[], list[str]]) -> Measure:
            return lambda: first_token(command())

        names: list[tuple[str, str, Callable[[], list[str]]]] = [
            ("start-transformers", "transformers f32", lambda: self.transformers("f32")),
            ("start-llama", "llama.cpp f32", lambda: self.llama_cpp("f32")),
        ]
        note = "process start to first token"
        return [Workload(name, peer, self.generate_one, start(command), note=note) for name, peer, command in names]

    def lm_eval(self, task: str) -> Workload:
        work = SlicedTask(task, self.args, self.pool)
        return Workload(
            f"lm-eval-{task}",
            "lm-eval f32",
            work.ours,
            work.peer,
            warm_up=work.in_full,
            most_pairs=work.n_slices(),
            note=f"slices of {self.args.lm_eval_slice} items; ours with start and load, peer without",
            must_agree=("acc", "acc_norm"),
        )

    def all(self) -> list[Workload]:
        last = [self.load(), *self.starts(), *map(self.lm_eval, CHOICE_TASKS), self.sleb()]
        return [*self.against_transformers(), *self.against_llama_cpp(), *last]


def read_through(path: Path) -> int:
    """Reads a file into one reused buffer of 1 MiB; the number of bytes."""
    buffer, total = bytearray(READ_BUFFER), 0
    with open(path, "rb", buffering=0) as file:
        while count := file.readinto(buffer):
            total += count
    return total


def first_token(command: list[str]) -> Sample:
    start = time.perf_counter()
    worker = Worker(command)
    worker.ask({"work": "prefill", "tokens": 5})
    seconds = time.perf_counter() - start
    worker.close()
    return {"seconds": seconds}
