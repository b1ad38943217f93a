"""A whole model at the learning rate that is usual for it: its weights move, though each step is smaller than bfloat16 can add."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
from workloads.models import libraries
libraries.quiet(deepspeed=True)
import torch
from transformers import AutoModelForCausalLM
from tests.workloads.training.test_auto import A100, LLAMA_8B_WHOLE, spec
from workloads.training import auto, deepspeed_config

STEPS, RATE = 40, 2e-5
policy = auto.resolve(spec(method="Full"), A100, LLAMA_8B_WHOLE)
config = deepspeed_config.config(None, policy, print)
deepspeed_config.start(on_gpu=False, timeout=600)
import deepspeed

def moved(before, after):
    different = sum(int((before[name] != after[name]).sum()) for name in before)
    return different / sum(weight.numel() for weight in before.values())

def matrices(model):
    return {name: weight for name, weight in model.named_parameters() if weight.dim() == 2 and "embed" not in name}

def train(model, backward, step):
    before = {name: weight.detach().clone() for name, weight in matrices(model).items()}
    rows = torch.randint(4, 200, (4, 32), generator=torch.Generator().manual_seed(0))
    for _ in range(STEPS):
        backward(model(input_ids=rows, labels=rows).loss)
        step()
    return moved(before, matrices(model))

def loaded():
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=getattr(torch, policy.weights))

# What transformers fills in for "auto".
config["bf16"]["enabled"], config["fp16"]["enabled"] = policy.precision == "bf16", False
config |= {"gradient_accumulation_steps": 1, "gradient_clipping": 1.0, "train_batch_size": 1, "train_micro_batch_size_per_gpu": 1}
model = loaded()
engine = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0), config=config)[0]
ours = train(model, engine.backward, engine.step)

model = loaded()
optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.0)
def step():
    optimizer.step()
    optimizer.zero_grad()
alone = train(model, lambda loss: loss.backward(), step)
print(json.dumps({"parallel": policy.parallel, "weights": policy.weights, "ours": ours, "alone": alone}))
"""


def test_what_auto_chooses_where_float32_weights_do_not_fit_lets_them_move(shelf: Path) -> None:
    """Known as a full fine-tune that succeeds and has hardly changed its model."""
    root = Path(__file__).parents[3]
    environment = os.environ | {"PYTHONPATH": f"{root}:{root / 'operator'}", "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(shelf / "base")], env=environment, cwd=root, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert (found["parallel"], found["weights"]) == ("Zero2Offload", "bfloat16")
    assert found["ours"] > 0.85, found
    assert found["alone"] < 0.6, "weights in bfloat16 alone, beside which ours are measured"
