"""The program behind the bundled model: one GGUF file in, a Hugging Face folder out. Run with -m, never imported.

It has a process of its own because torch and transformers are slow to import and keep their memory.
The weights are dequantised to float32, which is what CPUs compute fastest in; the copy into a fresh
model drops the quantisation settings, with which vLLM would refuse the folder.
"""

import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

_NOT_OF_THE_MODEL = ("quantization_config", "_name_or_path", "model_type")


def convert(source: Path, target: Path) -> None:
    """Write config, weights and tokenizer of the GGUF file `source` to the existing folder `target`."""
    quantised = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    settings = {name: value for name, value in quantised.config.to_dict().items() if name not in _NOT_OF_THE_MODEL}
    plain = LlamaForCausalLM(LlamaConfig(**settings)).to(torch.float32)
    plain.load_state_dict(quantised.state_dict(), strict=True)
    plain.save_pretrained(target)
    AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name).save_pretrained(target)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
