#!/usr/bin/env python3
"""Writes a Llama-type Hugging Face folder as a GGUF file in f32, f16 or bf16.

Metadata and tokenizer are copied from an existing GGUF file of the same model (--like), so that only the weights are
new. Matrices get the type asked for; the norms stay in f32, as llama.cpp wants them. The rows of the query and key
projections are reordered: Hugging Face rotates the two halves of a head against each other, llama.cpp neighbours.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Iterator

from peer_io import fail, need

ROPE_PARTS = ("attn_q", "attn_k")
NAMES_IN_BLOCK = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
NAMES_OUTSIDE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
WRITTEN_BY_GGUF_ITSELF = ("GGUF.", "general.architecture", "general.file_type", "general.quantization_version")


def gguf_name(name: str) -> str:
    """`model.layers.3.mlp.up_proj.weight` -> `blk.3.ffn_up.weight`."""
    stem, _, kind = name.rpartition(".")
    if stem in NAMES_OUTSIDE:
        return f"{NAMES_OUTSIDE[stem]}.{kind}"
    parts = stem.split(".", 3)
    if parts[:2] != ["model", "layers"] or len(parts) != 4 or parts[3] not in NAMES_IN_BLOCK:
        fail(f"tensor {name} has no place in a llama GGUF")
    return f"blk.{parts[2]}.{NAMES_IN_BLOCK[parts[3]]}.{kind}"


def interleave_halves(rows: Any, n_heads: int) -> Any:
    """Row i of a head's first half and row i of its second half become neighbours."""
    n_rows = rows.shape[0]
    halves = rows.reshape(n_heads, 2, n_rows // n_heads // 2, *rows.shape[1:])
    return halves.swapaxes(1, 2).reshape(rows.shape)


def tensors(folder: Path) -> Iterator[tuple[str, Any]]:
    """Every tensor of the folder under its GGUF name, as f32, rows in llama.cpp's order."""
    config = json.loads((folder / "config.json").read_text())
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        fail(f"no .safetensors file in {folder}")
    for file in files:
        with need("safetensors").safe_open(file, framework="pt") as store:
            for name in store.keys():
                target = gguf_name(name)
                weight = store.get_tensor(name).float().numpy()
                part = target.split(".")[-2]
                yield target, interleave_halves(weight, heads[part]) if part in ROPE_PARTS else weight


def copy_metadata(source: Path, writer: Any) -> None:
    gguf = need("gguf")
    for field in gguf.GGUFReader(source).fields.values():
        if field.name.startswith(WRITTEN_BY_GGUF_ITSELF):
            continue
        kind, inner = field.types[0], field.types[-1]
        is_array = kind == gguf.GGUFValueType.ARRAY
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner if is_array else None)


def write(folder: Path, like: Path, kind: str, target: Path) -> None:
    gguf, numpy = need("gguf"), need("numpy")
    types, file_types = gguf.GGMLQuantizationType, gguf.LlamaFileType
    matrix_type, file_type = {
        "f32": (types.F32, file_types.ALL_F32),
        "f16": (types.F16, file_types.MOSTLY_F16),
        "bf16": (types.BF16, file_types.MOSTLY_BF16),
    }[kind]
    partial = target.with_name(target.name + ".part")
    writer = gguf.GGUFWriter(partial, "llama")
    copy_metadata(like, writer)
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, weight in tensors(folder):
        wanted = matrix_type if weight.ndim > 1 else types.F32
        writer.add_tensor(name, gguf.quantize(numpy.ascontiguousarray(weight), wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(target)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="Hugging Face folder with the weights")
    parser.add_argument("--like", type=Path, required=True, help="GGUF file of the same model, for its metadata")
    parser.add_argument("--type", dest="kind", choices=["f32", "f16", "bf16"], required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    for path in (args.model / "config.json", args.like):
        if not path.is_file():
            fail(f"no file {path}")
    write(args.model, args.like, args.kind, args.output)


if __name__ == "__main__":
    main()
