#!/usr/bin/env python3
"""Do stock stacks make the same of an exported stage as PDTrim makes of its plan?

For SmolLM2 (or --model) and for small random Qwen2 and Mistral models: transformers loads the forms `plain` and
`identity`, and its log-probabilities of a text and its greedy tokens are compared with those of PDTrim for the base
model and the plan. The form `noop` is read by its configuration class and by a reading that skips no-op layers as
vLLM's DeciLMForCausalLM does. With --mergekit, mergekit makes the plain folder once more, from its own recipe. Exit
code 1 where something differs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peer_io import aligned, fail, need

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # see worker_transformers.py

PROMPT = "The capital of France is"
TEXT = (
    " Paris. The river that runs through it is wide and slow, and on most evenings people sit on its banks, eat bread"
    " and cheese, and talk about the weather, the trains and the price of everything."
)
GREEDY_TOKENS = 64
# What vLLM's nemotron_nas.py and its model configuration read of an entry of block_configs.
ATTENTION_NAMES = {"no_op", "n_heads_in_group", "replace_with_linear"}
FFN_NAMES = {"no_op", "ffn_mult", "replace_with_linear"}


@dataclass
class Case:
    """A base model and the blocks that decode is without."""

    name: str
    base: Path
    prefill: list[int]
    decode: list[int]


@dataclass
class Row:
    case: str
    what: str
    found: str
    good: bool


class Checks:
    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.rows: list[Row] = []
        self.torch = need("torch")
        self.torch.set_num_threads(args.threads)
        self.transformers = need("transformers")

    def add(self, case: Case, what: str, found: str, good: bool) -> None:
        self.rows.append(Row(case.name, what, found, good))
        print(f"{case.name}: {what}: {found}", file=sys.stderr)

    def pdtrim(self, *words: object) -> str:
        done = subprocess.run([str(self.args.pdtrim), *map(str, words)], capture_output=True, text=True)
        if done.returncode:
            fail(f"pdtrim {words[0]}: {done.stderr.strip()}")
        return done.stdout

    def cases(self) -> list[Case]:
        base = self.folder / "smollm2"
        self.pdtrim("export", self.args.model, "--out", base, "--offline")
        cases = [Case("smollm2", base, [17, 26], [6, 17, 18, 26])]
        for name, more in (("qwen2", {"tie_word_embeddings": True}), ("mistral", {"sliding_window": None})):
            cases.append(Case(name, self.random_model(name, base, more), [2], [0, 2, 5]))
        return cases

    def random_model(self, name: str, tokenizer: Path, more: dict[str, Any]) -> Path:
        """A small model by transformers, with weights large enough for logits that differ."""
        config = self.transformers.AutoConfig.for_model(
            name, vocab_size=49152, hidden_size=256, intermediate_size=512, num_hidden_layers=6,
            num_attention_heads=8, num_key_value_heads=2, max_position_embeddings=512, initializer_range=0.1,
            bos_token_id=None, eos_token_id=2, **more,
        )  # fmt: skip
        self.torch.manual_seed(5)
        model = self.transformers.AutoModelForCausalLM.from_config(config, dtype=self.torch.float32)
        with self.torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:  # norms and biases, which start as ones and zeros
                    parameter.add_(0.1 * self.torch.randn_like(parameter))
        folder = self.folder / name
        model.save_pretrained(folder)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            (folder / file).write_bytes((tokenizer / file).read_bytes())
        return folder

    def run(self) -> None:
        for case in self.cases():
            forms = self.exported(case)
            prompt, text = self.ids(case)
            expected, greedy = self.by_pdtrim(case, prompt, text)
            for form in ("plain", "identity"):
                model = self.transformers.AutoModelForCausalLM.from_pretrained(forms[form], dtype=self.torch.float32)
                self.compare(case, form, model, (prompt, text), (expected, greedy))
                if form == "plain":
                    plain = self.logits(model, prompt + text)
            self.check_noop(case, forms["noop"], plain, prompt + text)
            if self.args.mergekit:
                self.check_mergekit(case, forms["plain"])

    def plan(self, case: Case) -> Path:
        config = json.loads((case.base / "config.json").read_text())
        said = json.loads(self.pdtrim("inspect", case.base, "--json"))
        plan = self.folder / f"{case.name}.toml"
        plan.write_text(
            f'version = 1\nmethod = "manual"\n[model]\nname = "{case.base}"\nhash = "{said["hash"]}"\n'
            f"blocks = {config['num_hidden_layers']}\n[removed]\nprefill = {case.prefill}\ndecode = {case.decode}\n"
        )
        return plan

    def exported(self, case: Case) -> dict[str, Path]:
        """The decode stage in each form."""
        plan = self.plan(case)
        forms = {form: self.folder / f"{case.name}-{form}" for form in ("plain", "noop", "identity")}
        for form, folder in forms.items():
            self.pdtrim("export", plan, "--stage", "decode", "--form", form, "--out", folder)
        return forms

    def ids(self, case: Case) -> tuple[list[int], list[int]]:
        tokenizer = need("tokenizers").Tokenizer.from_file(str(case.base / "tokenizer.json"))
        return tokenizer.encode(PROMPT).ids, tokenizer.encode(TEXT).ids

    def by_pdtrim(self, case: Case, prompt: list[int], text: list[int]) -> tuple[list[float], list[int]]:
        """Log-probabilities and greedy tokens of the base model without the blocks, on one machine."""
        removed = ",".join(map(str, case.decode))
        plan = ("--model", case.base, "--prefill-remove", removed, "--decode-remove", removed, "--json")
        files = {"prompt": prompt, "text": text}
        for name, ids in files.items():
            (self.folder / name).write_text(" ".join(map(str, ids)))
        given = ("--prompt-file", self.folder / "prompt", "--continuation-file", self.folder / "text", "--ids")
        logprobs = json.loads(self.pdtrim("logprobs", *given, *plan))["logprobs"]
        greedy = json.loads(self.pdtrim("generate", PROMPT, "--max-new-tokens", GREEDY_TOKENS, *plan))["tokens"]
        return logprobs, greedy

    def logits(self, model: Any, ids: list[int]) -> Any:
        with self.torch.no_grad():
            return model(self.torch.tensor([ids])).logits[0]

    def compare(self, case: Case, form: str, model: Any, given: tuple, expected: tuple) -> None:
        (prompt, text), (logprobs, greedy) = given, expected
        rows = self.logits(model, prompt + text)[len(prompt) - 1 : -1].log_softmax(-1)
        found = rows[range(len(text)), text]
        difference = (found - self.torch.tensor(logprobs)).abs().max().item()
        what = f"{form}: log-probabilities of {len(text)} tokens, largest difference"
        self.add(case, what, f"{difference:.1e}", difference <= self.args.tolerance)
        made = self.greedy(model, prompt, len(greedy))
        same = sum(1 for ours, theirs in zip(greedy, made) if ours == theirs)
        good = made == greedy and len(greedy) == GREEDY_TOKENS
        self.add(case, f"{form}: greedy tokens that agree", f"{same} of {GREEDY_TOKENS}", good)

    def greedy(self, model: Any, prompt: list[int], count: int) -> list[int]:
        given = self.torch.tensor([prompt])
        with self.torch.no_grad():
            made = model.generate(
                given, attention_mask=self.torch.ones_like(given), do_sample=False, min_new_tokens=1,
                max_new_tokens=count, pad_token_id=0,
            )  # fmt: skip
        return made[0, len(prompt) :].tolist()

    def check_noop(self, case: Case, folder: Path, plain: Any, ids: list[int]) -> None:
        config = self.transformers.AutoConfig.from_pretrained(folder, trust_remote_code=True)
        entries = config.block_configs
        lacking = [
            n
            for n, entry in enumerate(entries)
            if ATTENTION_NAMES - vars(entry.attention).keys() or FFN_NAMES - vars(entry.ffn).keys()
        ]
        good = not lacking and len(entries) == config.num_hidden_layers and config.model_type == "nemotron-nas"
        self.add(case, "noop: entries with the attributes that vLLM reads", f"{len(entries) - len(lacking)}", good)
        model = self.as_the_class_reads(folder, config)
        difference = (self.logits(model, ids) - plain).abs().max().item()
        self.add(case, "noop: logits, largest difference to plain", f"{difference:.1e}", difference <= 1e-4)

    def as_the_class_reads(self, folder: Path, config: Any) -> Any:
        """A Llama of the layers that are no no-ops, each with the sizes that its entry gives it."""
        kept = [n for n, entry in enumerate(config.block_configs) if not entry.attention.no_op]
        sizes = {self.sizes(config, config.block_configs[n]) for n in kept}
        if len(sizes) != 1:
            fail(f"{folder}: the layers of a stock model have one size, found {sizes}")
        kv_heads, intermediate = sizes.pop()
        bias = getattr(config, "qkv_bias", config.attention_bias)
        stock = self.transformers.LlamaConfig(
            **{
                name: getattr(config, name)
                for name in ("vocab_size", "hidden_size", "num_attention_heads", "head_dim", "rms_norm_eps")
            },
            max_position_embeddings=config.max_position_embeddings, rope_parameters=config.rope_parameters,
            tie_word_embeddings=config.tie_word_embeddings, num_hidden_layers=len(kept), attention_bias=bias,
            num_key_value_heads=kv_heads, intermediate_size=intermediate,
        )  # fmt: skip
        model = self.transformers.LlamaForCausalLM(stock).to(self.torch.float32).eval()
        tensors = {}
        for name, tensor in need("safetensors.torch").load_file(folder / "model.safetensors").items():
            parts = name.split(".")
            if parts[1] == "layers":
                parts[2] = str(kept.index(int(parts[2])))  # a tensor of a no-op layer is an error
            tensors[".".join(parts)] = tensor
        lacking, unused = model.load_state_dict(tensors, strict=False)
        zero = [name for name in lacking if name.endswith("o_proj.bias") and bias and not config.attention_bias]
        rest = [name for name in lacking if name not in zero and name != "lm_head.weight"]
        if rest or unused:
            fail(f"{folder}: tensors that are missing: {rest}; that have no place: {unused}")
        for name in zero:
            model.get_parameter(name).data.zero_()
        return model

    def sizes(self, config: Any, entry: Any) -> tuple[int, int]:
        """As vLLM's class computes them."""
        size = int(2 * entry.ffn.ffn_mult * config.hidden_size / 3)
        return config.num_attention_heads // entry.attention.n_heads_in_group, size + -size % 256

    def check_mergekit(self, case: Case, plain: Path) -> None:
        merged = self.folder / f"{case.name}-merged"
        recipe = plain / "mergekit_config.yml"
        command = [str(self.args.mergekit), str(recipe), str(merged), "--no-copy-tokenizer"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            fail(f"mergekit-yaml: {done.stderr.strip()[-1500:]}")
        ours, theirs = self.tensors(plain), self.tensors(merged)
        theirs = {name: tensor for name, tensor in theirs.items() if name in ours or name != "lm_head.weight"}
        same = [name for name in ours if name in theirs and self.torch.equal(ours[name], theirs[name])]
        good = len(same) == len(ours) == len(theirs)
        self.add(case, "mergekit: tensors with the same bits", f"{len(same)} of {len(ours)}", good)

    def tensors(self, folder: Path) -> dict[str, Any]:
        load = need("safetensors.torch").load_file
        files = sorted(folder.glob("*.safetensors"))
        return {name: tensor for file in files for name, tensor in load(file).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pdtrim", type=Path, required=True, help="the binary, built with --release")
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a name, folder or file")
    parser.add_argument("--mergekit", type=Path, help="mergekit-yaml of an environment with mergekit")
    parser.add_argument("--tolerance", type=float, default=2e-3, help="of a log-probability")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checks = Checks(args, Path(folder))
        checks.run()
    rows = [(row.case, row.what, row.found, "yes" if row.good else "NO") for row in checks.rows]
    print("\n".join(aligned([("model", "what", "found", "good"), *rows])))
    if not all(row.good for row in checks.rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
