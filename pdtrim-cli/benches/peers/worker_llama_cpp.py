#!/usr/bin/env python3
"""Worker: one sample of prefill or decode by llama.cpp, through the PyPI wheel `xllamacpp`, on the CPU.

The wheel offers llama.cpp's server and no lower calls, so the seconds are the server's own `timings`: `prompt_ms` is the
prompt's forward pass and the choice of one token; `predicted_per_token_ms` is the mean over the steps after that.
The wall clock around the whole request comes back as `wall_seconds`, and `timings_seconds` is what the two should add up
to. Sampling is greedy, nothing is cached between requests, and the end-of-text token does not stop generation.

Requests, one JSON object a line (`token_ids` may replace the fixed prompt):
  {"work": "prefill", "tokens": 512}
  {"work": "decode", "context": 512, "new_tokens": 32}
"""

from __future__ import annotations

import argparse
import json
import os
import time
import urllib.request
from pathlib import Path
from typing import Any

from peer_io import Answer, Request, fail, need, serve, token_ids


def start_server(model: Path, context: int, threads: int) -> Any:
    """A server for one request at a time that holds no prompt cache."""
    if not model.is_file():
        fail(f"no GGUF file {model}; make_gguf.py writes one")
    os.environ.pop("OMP_WAIT_POLICY", None)  # PASSIVE, right for torch, doubles the time of a decode step here
    xllamacpp = need("xllamacpp")
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_ctx = context
    params.n_parallel = 1
    params.cache_ram_mib = 0
    params.n_gpu_layers = 0
    params.verbosity = 0
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


def complete(address: str, ids: list[int], new_tokens: int) -> Answer:
    """The server's answer to a greedy completion, with the wall clock beside its own timings."""
    body = {
        "prompt": ids,
        "n_predict": new_tokens,
        "cache_prompt": False,
        "ignore_eos": True,
        "return_tokens": True,
        "samplers": ["top_k"],
        "top_k": 1,
        "temperature": 0,
    }
    headers = {"Content-Type": "application/json"}
    post = urllib.request.Request(f"{address}/completion", json.dumps(body).encode(), headers)
    start = time.perf_counter()
    with urllib.request.urlopen(post) as response:
        found = json.load(response)
    return {**found, "wall_seconds": time.perf_counter() - start}


def sample(address: str, request: Request) -> Answer:
    work, batch = request.get("work"), request.get("batch", 1)
    if work not in ("prefill", "decode") or batch != 1:
        return {"error": f"llama.cpp through xllamacpp has no work {work!r} with batch {batch}"}
    count = request.get("tokens" if work == "prefill" else "context", 0)
    ids = request.get("token_ids") or token_ids(count)
    steps = 0 if work == "prefill" else request["new_tokens"]
    found = complete(address, ids, steps + 1)  # the first token comes from the prompt's own pass
    timings = found["timings"]
    if timings["prompt_n"] != len(ids) or timings["predicted_n"] != steps + 1:
        return {"error": f"asked for {len(ids)} + {steps + 1} tokens, the server timed {timings}"}
    seconds = (timings["prompt_ms"] if work == "prefill" else timings["predicted_ms"] / steps) / 1000
    return {
        "seconds": seconds,
        "samples": [seconds],
        "tokens": found["tokens"],
        "wall_seconds": found["wall_seconds"],
        "timings_seconds": (timings["prompt_ms"] + timings["predicted_ms"]) / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--context", type=int, default=4096, help="most tokens of one request")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    server = start_server(args.model, args.context, args.threads)
    address = server.listening_address
    serve(lambda request: sample(address, request))


if __name__ == "__main__":
    main()
