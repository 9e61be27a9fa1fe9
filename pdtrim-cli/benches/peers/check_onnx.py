#!/usr/bin/env python3
"""Does onnxruntime make the same of an exported stage as PDTrim makes of its plan?

For SmolLM2 (or --model) and for small random Qwen2 and Mistral models, `pdtrim export --onnx` writes the decode stage of
a plan. The logits of a text by onnxruntime's CPU provider are compared with those of the same stage's folder in
transformers, and their log-probabilities with PDTrim's for the base model and the plan; then once more for the text
filled up to a longer graph. `pdtrim` has to be built with the feature onnx. Exit code 1 where something differs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

from check_export import Case, Checks
from peer_io import aligned, fail, need

FILLED = 7  # tokens more than the text has


class OnnxChecks(Checks):
    def run(self) -> None:
        for case in self.cases():
            plan = self.plan(case)
            prompt, text = self.ids(case)
            ids = prompt + text
            expected, _ = self.by_pdtrim(case, prompt, text)
            theirs = self.by_transformers(case, plan, ids)
            for what, length in (("", len(ids)), (f", filled up by {FILLED}", len(ids) + FILLED)):
                rows = self.by_onnxruntime(plan, ids, length)
                difference = (rows - theirs).abs().max().item()
                name = f"{rows.shape[0]} x {rows.shape[1]} logits{what}, largest difference to transformers"
                self.add(case, name, f"{difference:.1e}", difference <= self.args.tolerance)
                found = rows[len(prompt) - 1 : -1].log_softmax(-1)[range(len(text)), text]
                difference = (found - self.torch.tensor(expected)).abs().max().item()
                name = f"{len(text)} log-probabilities{what}, largest difference to PDTrim"
                self.add(case, name, f"{difference:.1e}", difference <= self.args.tolerance)

    def by_transformers(self, case: Case, plan: Path, ids: list[int]) -> Any:
        folder = self.folder / f"{case.name}-plain"
        self.pdtrim("export", plan, "--stage", "decode", "--out", folder)
        model = self.transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=self.torch.float32)
        return self.logits(model, ids)

    def by_onnxruntime(self, plan: Path, ids: list[int], length: int) -> Any:
        """Logits of `ids` by a graph of `length` tokens."""
        file = self.folder / "stage.onnx"
        self.pdtrim("export", plan, "--stage", "decode", "--onnx", length, "--out", file, "--force")
        runtime, numpy = need("onnxruntime"), need("numpy")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = self.args.threads
        session = runtime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        (given,), (made,) = session.get_inputs(), session.get_outputs()
        if (given.type, given.shape) != ("tensor(int64)", [1, length]):
            fail(f"{file}: the input is {given.type} {given.shape}, expected int64 [1, {length}]")
        filled = numpy.array([ids + [1] * (length - len(ids))], dtype=numpy.int64)
        logits = session.run([made.name], {given.name: filled})[0]
        return self.torch.from_numpy(logits[0, : len(ids)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdtrim", type=Path, required=True, help="the binary, built with --release --features onnx")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a name, folder or file")
    parser.add_argument("--tolerance", type=float, default=2e-3, help="of a logit and of a log-probability")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checks = OnnxChecks(args, Path(folder))
        checks.run()
    rows = [(row.case, row.what, row.found, "yes" if row.good else "NO") for row in checks.rows]
    print("\n".join(aligned([("model", "what", "found", "good"), *rows])))
    if not all(row.good for row in checks.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
