#!/usr/bin/env python3
"""Does vLLM's connector for files find and read what `pdtrim kv export` writes?

Runs the connector's own source, from an unpacked source distribution of vLLM, with the rest of vLLM stubbed out: it is
asked whether it has the prompt, and loads it into an empty paged cache. What lies there is held against the keys
and values that transformers computes of the dense model in f32. So it checks names, hash, layout and numbering, and
not vLLM's engine. Exits with 1 where a layer differs by more than --limit of its norm.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import sys
import types
from pathlib import Path
from typing import Any

from peer_io import fail, need

CONNECTORS = {
    "example_connector": "ExampleConnector",  # 0.33.0
    "shared_storage_connector": "SharedStorageConnector",  # 0.11.0
}
FOLDER = Path("vllm/distributed/kv_transfer/kv_connector/v1")
FIRST_PAGE, PAGES = 3, 64


class Stub:
    """Whatever the connector imports and does not use here."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def info(self, *_: Any) -> None: ...

    warning = info


class ConnectorBase:
    """The one method of the base class that loading needs."""

    metadata: Any

    def _get_connector_metadata(self) -> Any:
        return self.metadata


class ConnectorMetadata:
    """A dataclass' base."""


def stub(module: str, **names: Any) -> None:
    parts = module.split(".")
    for end in range(1, len(parts) + 1):
        name = ".".join(parts[:end])
        sys.modules.setdefault(name, types.ModuleType(name))
    vars(sys.modules[module]).update(names)


def md5(data: bytes, usedforsecurity: bool = True) -> Any:
    return hashlib.md5(data, usedforsecurity=usedforsecurity)


def load_connector(source: Path) -> tuple[str, types.ModuleType]:
    """The connector's module, and the name of its file."""
    base = "vllm.distributed.kv_transfer.kv_connector.v1.base"
    stub(base, KVConnectorBase_V1=ConnectorBase, KVConnectorMetadata=ConnectorMetadata, KVConnectorRole=Stub)
    stub("vllm.config", VllmConfig=Stub)
    stub("vllm.logger", init_logger=Stub)
    stub("vllm.model_executor.layers.attention.mla_attention", MLACommonMetadata=type("Mla", (), {}))
    stub("vllm.v1.attention.backends.mla.common", MLACommonMetadata=type("Mla", (), {}))
    stub("vllm.utils.gpu_sync_debug", gpu_sync_allowed=contextlib.nullcontext)
    stub("vllm.utils.hashing", safe_hash=md5)
    stub("vllm.v1.attention.backend", AttentionMetadata=Stub)
    stub("vllm.v1.core.sched.output", SchedulerOutput=Stub)
    need("safetensors.torch")
    for name in CONNECTORS:
        path = source / FOLDER / f"{name}.py"
        if path.is_file():
            module = sys.modules.setdefault("connector", types.ModuleType("connector"))
            text = path.read_text(encoding="utf-8").replace(".cuda()", "")
            exec(compile(text, str(path), "exec"), vars(module))
            return name, module
    fail(f"{source / FOLDER} has none of {', '.join(CONNECTORS)}")


def loaded(source: Path, storage: Path, ids: list[int], layers: int, shape: tuple[int, int], block: int) -> list[Any]:
    """Keys and values `[positions, heads, width]` of each layer as the connector leaves them in a paged cache."""
    torch = need("torch")
    name, module = load_connector(source)
    kind = getattr(module, CONNECTORS[name])
    connector = object.__new__(kind)
    connector._block_size, connector._storage_path = block, str(storage)
    request = types.SimpleNamespace(prompt_token_ids=ids, mm_features=[], mm_hashes=[])
    matched, _ = connector.get_num_new_matched_tokens(request, 0)
    if not matched:
        fail(f"the connector finds no folder for these {len(ids)} tokens in {storage}")
    connector.metadata = getattr(module, f"{CONNECTORS[name]}Metadata")()
    pages = [FIRST_PAGE + page for page in range((len(ids) + block - 1) // block)]
    connector.metadata.add_request(ids, pages, block, False, [])
    heads, width = shape
    joined = name == "example_connector"
    cache_shape = (PAGES, heads, block, 2 * width) if joined else (2, PAGES, block, heads, width)
    empty = [torch.zeros(cache_shape, dtype=torch.bfloat16) for _ in range(layers)]
    names = [f"model.layers.{layer}.self_attn.attn" for layer in range(layers)]
    # 0.11.0 has a list of caches, one for each virtual engine.
    held = [types.SimpleNamespace(kv_cache=cache if joined else [cache]) for cache in empty]
    no_metadata = dict.fromkeys(names)
    context = types.SimpleNamespace(
        no_compile_layers=dict(zip(names, held)), attn_metadata=no_metadata, virtual_engine=0
    )
    connector.start_load_kv(context)
    result = []
    for cache in empty:
        # As the FlashAttention backends of the two releases take their cache apart.
        keys, values = cache.transpose(1, 2).split(width, dim=-1) if joined else cache
        flat = [part[FIRST_PAGE:].reshape(-1, heads, width)[:matched].float() for part in (keys, values)]
        result.append(flat)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm-source", type=Path, required=True, help="unpacked source distribution, 0.33.0 or 0.11.0")
    parser.add_argument("--storage", type=Path, required=True, help="--out of `pdtrim kv export --dtype bf16`")
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder of the dense model")
    parser.add_argument("--removed", default="", help="blocks that decode is without, such as 13,14; prefill keeps all")
    parser.add_argument("--prompt-file", type=Path, required=True)
    parser.add_argument("--block-size", type=int, default=16)
    parser.add_argument("--limit", type=float, default=0.02, help="of a layer's norm; bf16 alone makes 0.01")
    args = parser.parse_args()
    torch, transformers = need("torch"), need("transformers")
    tokenizer = need("tokenizers").Tokenizer.from_file(str(args.model / "tokenizer.json"))
    ids = tokenizer.encode(args.prompt_file.read_text(encoding="utf-8")).ids
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    config = model.config
    removed = {int(block) for block in args.removed.split(",") if block}
    kept = [block for block in range(config.num_hidden_layers) if block not in removed]
    shape = (config.num_key_value_heads, config.hidden_size // config.num_attention_heads)
    layers = loaded(args.vllm_source, args.storage, ids, len(kept), shape, args.block_size)
    positions = layers[0][0].shape[0]
    with torch.no_grad():
        cache = model(torch.tensor([ids[:positions]]), use_cache=True).past_key_values
    worst = 0.0
    for block, (keys, values) in zip(kept, layers):
        reference = cache.layers[block]
        for found, expected in ((keys, reference.keys), (values, reference.values)):
            expected = expected[0].transpose(0, 1)
            worst = max(worst, ((found - expected).norm() / expected.norm()).item())
    print(f"{len(layers)} layers, {positions} of {len(ids)} tokens: at most {worst:.4f} of a layer's norm apart (limit {args.limit})")
    if worst > args.limit:
        sys.exit(1)


if __name__ == "__main__":
    main()
