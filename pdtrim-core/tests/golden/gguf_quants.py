"""Writes gguf_quants.json: blocks of every ggml type that pdtrim reads, and their values.

Run in this folder: pip install gguf==0.19.0 numpy && python gguf_quants.py

The legacy types and the 16-bit floats are random rows quantised by `gguf.quants.quantize`. The
package cannot quantise to K types, so theirs are random bytes with finite half-precision scales.
Values are the f32 bit patterns that `gguf.quants.dequantize` gives.
"""

import json
from importlib.metadata import version

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import dequantize, quantize

# Where the half-precision scales of a K block start.
K_SCALES = {T.Q4_K: (144, (0, 2)), T.Q5_K: (176, (0, 2)), T.Q6_K: (210, (208,))}

rng = np.random.default_rng(20240607)


def k_blocks(block_bytes, scale_offsets, n_blocks):
    blocks = rng.integers(0, 256, (n_blocks, block_bytes), dtype=np.uint8)
    for at in scale_offsets:
        scales = rng.uniform(-0.05, 0.05, n_blocks).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8).reshape(n_blocks, 2)
    return blocks


cases = []
for t in [T.F32, T.F16, T.BF16, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.Q8_0]:
    rows = rng.normal(0, 0.05, (2, 64)).astype(np.float32)
    cases.append((t, quantize(rows, t)))
for t, (block_bytes, scale_offsets) in K_SCALES.items():
    cases.append((t, k_blocks(block_bytes, scale_offsets, 2)))

fixture = {"gguf": version("gguf"), "types": []}
for t, data in cases:
    data = np.ascontiguousarray(data)
    values = np.ascontiguousarray(dequantize(data, t), dtype="<f4")
    fixture["types"].append(
        {"name": t.name, "number": int(t), "data": data.tobytes().hex(), "f32": values.tobytes().hex()}
    )

with open("gguf_quants.json", "w") as file:
    json.dump(fixture, file, indent=1)
    file.write("\n")
