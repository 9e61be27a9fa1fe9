"""Starts the processes of both sides, and speaks with the workers: one JSON line out, one JSON line back."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peer_io import Answer, Request

HERE = Path(__file__).resolve().parent


class SideError(Exception):
    """A side that cannot be started, died, or refused a request; the message is one line."""


class Worker:
    """A live worker process; the constructor returns when its model is loaded."""

    def __init__(self, command: list[str]) -> None:
        self.name = Path(command[1]).name
        self.errors = tempfile.TemporaryFile("w+")
        pipe = subprocess.PIPE
        try:
            self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)
        except OSError as error:
            raise SideError(f"cannot start {command[0]}: {error.strerror}") from error
        try:
            self.read()
        except SideError:
            self.close()
            raise

    def read(self) -> Answer:
        """The next JSON line; other lines are what a library printed before the worker could stop it."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        self.process.wait()
        raise SideError(f"{self.name} ended: {self.last_error()}")

    def last_error(self) -> str:
        self.errors.seek(0)
        lines = [line.strip() for line in re.split(r"[\r\n]", self.errors.read()) if line.strip()]
        return lines[-1].removeprefix("error: ") if lines else f"exit code {self.process.returncode}, nothing on stderr"

    def ask(self, request: Request) -> Answer:
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # read() says why it ended
            print(json.dumps(request), file=self.process.stdin, flush=True)
        answer = self.read()
        if "error" in answer:
            raise SideError(f"{self.name}: {answer['error']}")
        return answer

    def is_alive(self) -> bool:
        return self.process.poll() is None

    def close(self) -> None:
        """Ends the worker by ending its input, and waits for it."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()
        self.errors.close()


class Pool:
    """Workers by command; each is started when first asked and stays alive until `close_all`."""

    def __init__(self) -> None:
        self.workers: dict[tuple[str, ...], Worker] = {}

    def ask(self, command: list[str], request: Request) -> Answer:
        key = tuple(command)
        if key in self.workers and not self.workers[key].is_alive():
            self.workers.pop(key).close()
        if key not in self.workers:
            self.workers[key] = Worker(command)
        answer = self.workers[key].ask(request)
        return {name: value for name, value in answer.items() if name not in ("samples", "tokens")}

    def close_all(self) -> None:
        for worker in self.workers.values():
            worker.close()
        self.workers.clear()


def run_process(command: list[str], threads: int) -> tuple[str, float]:
    """Standard output and wall time of a process that may use `threads` threads."""
    env = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    start = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=env)
    except OSError as error:
        raise SideError(f"cannot start {command[0]}: {error.strerror}") from error
    seconds = time.perf_counter() - start
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise SideError(f"{' '.join(command[:3])}: {lines[0].removeprefix('error: ')}")
    return done.stdout, seconds


def transformers_command(
    model: Path, dtype: str, threads: int, python: str = sys.executable, device: str = "cpu"
) -> list[str]:
    script = str(HERE / "worker_transformers.py")
    command = [python, script, "--model", str(model), "--dtype", dtype, "--threads", str(threads)]
    return [*command, "--device", device]


def llama_cpp_command(gguf: Path, threads: int, python: str = sys.executable) -> list[str]:
    script = str(HERE / "worker_llama_cpp.py")
    return [python, script, "--model", str(gguf), "--threads", str(threads)]


def lm_eval_command(model: Path, data: Path, threads: int, python: str = sys.executable) -> list[str]:
    script = str(HERE / "worker_lm_eval.py")
    return [python, script, "--model", str(model), "--data", str(data), "--threads", str(threads)]
