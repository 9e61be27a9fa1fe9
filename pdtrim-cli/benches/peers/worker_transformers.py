#!/usr/bin/env python3
"""Worker: one sample of prefill, decode or perplexity by transformers on torch.

Requests, one JSON object a line (`token_ids` may replace the fixed prompt wherever `tokens` or `context` stands):
  {"work": "prefill", "tokens": 512, "batch": 1}
  {"work": "decode", "context": 512, "batch": 1, "new_tokens": 32}      seconds are per step, mean over the steps
  {"work": "perplexity", "tokens": 8192, "window": 1024, "batch": 1}    log-likelihood of every next token
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any, Callable

from peer_io import Answer, Request, fail, need, serve, token_ids


def load(folder: Path, dtype: str, threads: int, device: str = "cpu") -> tuple[Any, Any]:
    """torch with its number of threads set, and the model ready for inference."""
    if not (folder / "config.json").is_file():
        fail(f"no Hugging Face folder at {folder}")
    # With active waiting torch's threads burn the cores whenever anything else runs; read when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    torch, transformers = need("torch"), need("transformers")
    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    element = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}[dtype]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=element, attn_implementation="sdpa", local_files_only=True
    )
    return torch, model.to(device).eval()


class Works:
    """The works, each a method that returns the seconds it took and what it found."""

    def __init__(self, torch: Any, model: Any) -> None:
        self.torch = torch
        self.model = model

    def prompt(self, request: Request, count: int) -> Any:
        """[batch, count] ids; the rows differ from one another."""
        batch = request.get("batch", 1)
        given = request.get("token_ids")
        rows = [given or token_ids(count, first=row * count) for row in range(batch)]
        return self.torch.tensor(rows, device=self.model.device)

    def now(self) -> float:
        """The clock, after a GPU has done what it was given."""
        if self.model.device.type == "cuda":
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def forward(self, ids: Any, cache: Any = None) -> tuple[Any, Any]:
        """Greedy next ids [batch, 1] and the KV cache; only the last position's logits are computed."""
        out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1].argmax(-1, keepdim=True), out.past_key_values

    def prefill(self, request: Request) -> Answer:
        ids = self.prompt(request, request.get("tokens", 0))
        start = self.now()
        next_ids, _ = self.forward(ids)
        return {"seconds": self.now() - start, "tokens": next_ids.flatten().tolist()}

    def decode(self, request: Request) -> Answer:
        next_ids, cache = self.forward(self.prompt(request, request.get("context", 0)))
        steps = [next_ids]
        start = self.now()
        for _ in range(request["new_tokens"]):
            next_ids, cache = self.forward(next_ids, cache)
            steps.append(next_ids)
        seconds = (self.now() - start) / request["new_tokens"]
        return {"seconds": seconds, "tokens": self.torch.cat(steps, 1).tolist()[0]}

    def perplexity(self, request: Request) -> Answer:
        window, batch = request["window"], request.get("batch", 1)
        ids = request.get("token_ids") or token_ids(request["tokens"])
        windows = self.torch.tensor(ids, device=self.model.device).view(-1, window).split(batch)
        start = self.now()
        nll = sum(self.nll_sum(rows) for rows in windows)
        seconds = self.now() - start
        return {"seconds": seconds, "mean_nll": nll / (len(ids) // window * (window - 1))}

    def nll_sum(self, ids: Any) -> float:
        """Negative log-likelihood of every token but the first of each row, summed."""
        logits = self.model(ids, use_cache=False).logits[:, :-1].float()
        loss = self.torch.nn.functional.cross_entropy
        return loss(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="sum").item()

    def answer(self, request: Request) -> Answer:
        known: dict[str, Callable[[Request], Answer]] = {
            "prefill": self.prefill,
            "decode": self.decode,
            "perplexity": self.perplexity,
        }
        work = known.get(request.get("work", ""))
        if work is None:
            return {"error": f"unknown work {request.get('work')!r}"}
        with self.torch.inference_mode():
            found = work(request)
        return {**found, "samples": [found["seconds"]]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder")
    parser.add_argument("--dtype", choices=["f32", "bf16", "f16"], default="f32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    args = parser.parse_args()
    serve(Works(*load(args.model, args.dtype, args.threads, args.device)).answer)


if __name__ == "__main__":
    main()
