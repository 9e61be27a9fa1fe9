#!/usr/bin/env python3
"""Does llama.cpp read what `pdtrim export --gguf` writes as pdtrim reads it?

For each file: token ids of texts by llama.cpp and by the tokenizer.json of the source, the ten most likely next tokens
of some prompts with their log-probabilities by both, and greedy tokens. With --against a second file of the same model,
usually in q8_0, is scored too: the perplexity of a text in both files, all of it by llama.cpp. Exits with 1 where a
difference is above its limit.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from peer_io import fail, need
from worker_llama_cpp import start_server

PROMPTS = [
    "The capital of France is",
    "def fibonacci(n):\n    if n < 2:\n        return",
    "In 1969, three astronauts left for the Moon. Two of them",
    "Water boils at 100 degrees, and ice melts at",
]
TEXTS = [
    *PROMPTS,
    "Hello  world, it's I'LL don't WE'VE  3 33 3333 1,234.50\t\ttabs\n\n \n  end camelCase __init__ ->=>",
    "naïve café — “quoted” 東京 中文 한국어 हिन्दी 🙂 <|im_start|>user\nHi<|im_end|>\n",
]


class LlamaCpp:
    """A server with one file."""

    def __init__(self, path: Path, threads: int) -> None:
        self.server = start_server(path, 2048, threads)

    def ask(self, place: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        address = f"{self.server.listening_address}/{place}"
        post = urllib.request.Request(address, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(post) as response:
            return json.load(response)

    def tokens(self, text: str) -> list[int]:
        return self.ask("tokenize", {"content": text, "add_special": False, "parse_special": True})["tokens"]

    def next(self, ids: list[int], steps: int, top: int) -> list[list[tuple[int, float]]]:
        """The `top` most likely tokens, with log-probabilities, at each of `steps` greedy steps."""
        body = {
            "prompt": ids, "n_predict": steps, "n_probs": top, "temperature": -1, "ignore_eos": False,
            "cache_prompt": True, "return_tokens": True, "samplers": ["top_k"], "top_k": 1,
        }  # fmt: skip
        found = self.ask("completion", body)["completion_probabilities"]
        return [[(token["id"], token["logprob"]) for token in step["top_logprobs"]] for step in found]

    def perplexity(self, ids: list[int], context: int) -> float:
        """Of every token after the first `context`, each with all that are before it."""
        total = 0.0
        for place in range(context, len(ids)):
            likely = dict(self.next(ids[:place], 1, 100_000)[0])
            if ids[place] not in likely:
                fail(f"llama.cpp gave {len(likely)} log-probabilities, without token {ids[place]}")
            total -= likely[ids[place]]
        return math.exp(total / (len(ids) - context))


class Ours:
    """`pdtrim` with one file."""

    def __init__(self, pdtrim: Path, model: Path) -> None:
        self.pdtrim, self.model = pdtrim.resolve(), model
        self.folder = tempfile.TemporaryDirectory()

    def run(self, *words: Any) -> dict[str, Any]:
        command = [str(word) for word in (self.pdtrim, *words, "--model", self.model, "--offline", "--json")]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            fail(f"pdtrim {words[0]}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def file(self, name: str, ids: list[int]) -> Path:
        path = Path(self.folder.name) / name
        path.write_text(json.dumps(ids))
        return path

    def logprobs(self, ids: list[int], continuation: list[int]) -> list[float]:
        prompt, then = self.file("prompt", ids), self.file("then", continuation)
        return self.run("logprobs", "--prompt-file", prompt, "--continuation-file", then, "--ids")["logprobs"]

    def greedy(self, prompt: str, count: int) -> list[int]:
        return self.run("generate", prompt, "--max-new-tokens", count)["tokens"]


def check_tokens(peer: LlamaCpp, tokenizer: Any) -> bool:
    same = [peer.tokens(text) == tokenizer.encode(text, add_special_tokens=False).ids for text in TEXTS]
    for text, equal in zip(TEXTS, same):
        if not equal:
            print(f"other tokens: {text!r}")
    print(f"token ids of {sum(same)} of {len(TEXTS)} texts are equal")
    return all(same)


def check_logits(peer: LlamaCpp, ours: Ours, tokenizer: Any, limit: float) -> bool:
    worst = 0.0
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        for token, logprob in peer.next(ids, 1, 10)[0][:10]:
            worst = max(worst, abs(logprob - ours.logprobs(ids, [token])[0]))
    print(f"top 10 of {len(PROMPTS)} prompts: log-probabilities differ by {worst:.4f} at most (limit {limit})")
    return worst <= limit


def check_greedy(peer: LlamaCpp, ours: Ours, tokenizer: Any, count: int, tie: float) -> bool:
    right = True
    for prompt in PROMPTS:
        steps = peer.next(tokenizer.encode(prompt).ids, count, 2)
        theirs, found = [step[0][0] for step in steps], ours.greedy(prompt, count)
        pairs = enumerate(zip(theirs, found))
        at = next((place for place, (one, other) in pairs if one != other), None)
        if at is None:
            print(f"greedy: {min(len(theirs), len(found))} tokens are equal after {prompt!r}")
            continue
        gap = steps[at][0][1] - steps[at][1][1]
        print(f"greedy: {at} tokens are equal after {prompt!r}, then llama.cpp's two best are {gap:.4f} apart")
        right &= gap <= tie
    return right


def check_perplexity(first: LlamaCpp, second: LlamaCpp, ours: Ours, ids: list[int], limit: float) -> bool:
    context = 32
    one, other = first.perplexity(ids, context), second.perplexity(ids, context)
    logprobs = ours.logprobs(ids[:context], ids[context:])
    own = math.exp(-sum(logprobs) / len(logprobs))
    rise = abs(other / one - 1)
    print(
        f"perplexity of {len(ids) - context} tokens: {one:.4f} (pdtrim, same file: {own:.4f}), second file {other:.4f}: "
        f"{100 * rise:.2f} % apart (limit {100 * limit:.0f} %)"
    )
    return rise <= limit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gguf", type=Path, required=True, help="a file of `pdtrim export --gguf`, f16 or wider")
    parser.add_argument("--against", type=Path, help="the same model in another type")
    parser.add_argument("--tokenizer", type=Path, required=True, help="the tokenizer.json of the source")
    parser.add_argument("--pdtrim", type=Path, required=True, help="the binary")
    parser.add_argument("--text", type=Path, help="text for the perplexity; needed with --against")
    parser.add_argument("--tokens", type=int, default=288, help="how much of it")
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--limit", type=float, default=0.05, help="largest difference of a log-probability, and a near tie")
    parser.add_argument("--perplexity-limit", type=float, default=0.01)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not args.tokenizer.is_file():
        fail(f"no file {args.tokenizer}")
    if args.against and not args.text:
        fail("--against needs --text")
    tokenizer = need("tokenizers").Tokenizer.from_file(str(args.tokenizer))
    peer, ours = LlamaCpp(args.gguf, args.threads), Ours(args.pdtrim, args.gguf)
    passed = [
        check_tokens(peer, tokenizer),
        check_logits(peer, ours, tokenizer, args.limit),
        check_greedy(peer, ours, tokenizer, args.new_tokens, args.limit),
    ]
    if args.against:
        text = args.text.read_text(encoding="utf-8")
        ids = tokenizer.encode(text, add_special_tokens=False).ids[: args.tokens]
        second = LlamaCpp(args.against, args.threads)
        passed.append(check_perplexity(peer, second, ours, ids, args.perplexity_limit))
    if not all(passed):
        sys.exit(1)


if __name__ == "__main__":
    main()
