#!/usr/bin/env python3
"""Do the stacks say the same? Greedy tokens after one prompt, by transformers, llama.cpp and `pdtrim generate`.

Exits with 1 where a stack differs from transformers; --allow-late N accepts a first difference at step N or later
(in 16-bit types a near tie may fall either way).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from peer_io import fail, need
from worker_pool import SideError, Worker, llama_cpp_command, transformers_command

PROMPT = "The capital of France is"


def our_tokens(pdtrim: Path, model: Path, dtype: str, prompt: str, count: int) -> list[int]:
    command = [pdtrim, "generate", prompt, "--model", model, "--dtype", dtype, "--max-new-tokens", count, "--json"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        fail(f"pdtrim generate: {done.stderr.strip()}")
    return json.loads(done.stdout)["tokens"]


def peer_tokens(command: list[str], ids: list[int], count: int) -> list[int]:
    request = {"work": "decode", "token_ids": ids, "new_tokens": count - 1}
    try:
        worker = Worker(command)
        tokens = worker.ask(request)["tokens"]
    except SideError as error:
        fail(str(error))
    worker.close()
    return tokens


def agreement(ours: list[int], reference: list[int]) -> int:
    """Number of leading tokens that agree."""
    pairs = zip(ours, reference)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ours), len(reference)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--gguf", type=Path, action="append", default=[], help="GGUF file; may be given again")
    parser.add_argument("--pdtrim", type=Path, required=True, help="the binary")
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    parser.add_argument("--prompt", default=PROMPT)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--allow-late", type=int, default=None, metavar="N")
    args = parser.parse_args()
    tokenizer_file = args.model / "tokenizer.json"
    if not tokenizer_file.is_file():
        fail(f"no file {tokenizer_file}")
    ids = need("tokenizers").Tokenizer.from_file(str(tokenizer_file)).encode(args.prompt).ids
    count = args.new_tokens
    reference = peer_tokens(transformers_command(args.model, args.dtype, args.threads), ids, count)
    found = {"pdtrim": our_tokens(args.pdtrim, args.model, args.dtype, args.prompt, count)}
    for gguf in args.gguf:
        found[f"llama.cpp {gguf.name}"] = peer_tokens(llama_cpp_command(gguf, args.threads), ids, count)
    print(f"prompt {ids}\ntransformers {args.dtype}: {reference}")
    enough = count if args.allow_late is None else args.allow_late
    for name, tokens in found.items():
        print(f"{name}: the first {agreement(tokens, reference)} of {count} agree")
    if any(agreement(tokens, reference) < enough for tokens in found.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
