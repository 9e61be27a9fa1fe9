"""Configuration of a model of which some layers do nothing.

vLLM's DeciLMForCausalLM (model type nemotron-nas) asks `config.block_configs[layer].attention.no_op` and the like; in
config.json the entries are plain objects. This file is written by `pdtrim export --form noop`.
"""

import copy
from types import SimpleNamespace

from transformers import LlamaConfig


class PdtrimConfig(LlamaConfig):
    """A Llama configuration whose `block_configs` has an entry with attributes for each layer."""

    model_type = "nemotron-nas"

    def __init__(self, block_configs=None, **kwargs):
        super().__init__(**kwargs)
        self.block_configs = [as_attributes(block) for block in block_configs or []]

    def to_dict(self):
        plain = super().to_dict()
        plain["block_configs"] = [as_plain(block) for block in self.block_configs]
        return plain


def as_attributes(entry):
    """The same entry with attributes in place of keys, at every depth."""
    if isinstance(entry, dict):
        return SimpleNamespace(**{key: as_attributes(value) for key, value in entry.items()})
    return copy.deepcopy(entry)


def as_plain(entry):
    """The inverse of `as_attributes`."""
    if isinstance(entry, SimpleNamespace):
        return {key: as_plain(value) for key, value in vars(entry).items()}
    return entry
