"""Imported once by the fork server, so that a run in a process of its own starts in no time instead of ten seconds."""

from __future__ import annotations

import gc
import os

from workloads.models import inspect, libraries

os.environ["DS_ACCELERATOR"] = "cpu"  # asked at import; it would look for others, and say so
libraries.quiet(deepspeed=True)

import deepspeed
import matplotlib.pyplot

from workloads import merge, pretrain, sft
from workloads.data import conversations, samplers, token_blocks, tokenizer_io
from workloads.data.chat_templates import loading
from workloads.evaluation import candidates, generation, held_out, page, perplexity
from workloads.manifest import cli
from workloads.models import from_config, merge_lora, resize_embeddings
from workloads.runtime import elastic, execute
from workloads.training import deepspeed_config, model_card, tensorboard, trainer

gc.collect()
gc.freeze()  # a forked run would copy every page that its garbage collector looks at
