"""Imported once by the fork server, so that a run in a process of its own starts in no time instead of ten seconds."""

from __future__ import annotations

import gc
import os

from workloads import model

os.environ["DS_ACCELERATOR"] = "cpu"  # asked at import; it would look for others, and say so
model.quiet_libraries(deepspeed=True)

import deepspeed  # noqa: E402, F401
import matplotlib.pyplot  # noqa: E402, F401

from workloads import (  # noqa: E402, F401
    blocks,
    candidates,
    card,
    cli,
    curves,
    data,
    embeddings,
    evaluation_page,
    generation,
    held_out,
    merge,
    merging,
    perplexity,
    pretrain,
    rendezvous,
    runtime,
    scratch,
    sft,
    shares,
    templates,
    tokenizer_files,
    training,
    zero,
)

gc.collect()
gc.freeze()  # a forked run would copy every page that its garbage collector looks at
