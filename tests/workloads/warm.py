"""Imported once by the fork server, so that a run in a process of its own starts in no time instead of ten seconds."""

from __future__ import annotations

import gc

from workloads import model

model.quiet_libraries()

import matplotlib.pyplot  # noqa: E402, F401

from workloads import (  # noqa: E402, F401
    blocks,
    card,
    cli,
    curves,
    data,
    embeddings,
    merge,
    merging,
    pretrain,
    runtime,
    scratch,
    sft,
    templates,
    tokenizer_files,
    training,
    zero,
)

gc.collect()
gc.freeze()  # a forked run would copy every page that its garbage collector looks at
