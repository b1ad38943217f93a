"""A chain that is killed again and again, at any moment of any step, ends with what it would have made undisturbed."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

from alpaca_operator.api import KINDS
from tests.workloads import literature
from tests.workloads.runs import SERVER, merged
from workloads.storage import lineage

KILLS = 8
LATEST = 26
"""Lines after which a run is killed at the latest; a whole chain prints several times as many."""
TRAINING = {
    "maxSteps": 4,
    "saveSteps": 1,
    "learningRate": 1e-2,
    "gradientAccumulation": 1,
    "reportTo": [],
}


def after(kind: str, name: str) -> dict[str, Any]:
    return {"from": {"kind": kind, "name": name}}


def step(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name}, "spec": {"output": {"uri": f"out/{name}"}, **spec}}


def pretraining(name: str, **spec: Any) -> dict[str, Any]:
    settings = {"dataset": {"train": [{"uri": "novels"}]}, "training": {**TRAINING, "blockSize": 64}}
    return step("PretrainJob", name, **merged(settings, spec))


STEPS = [
    step(
        "TokenizerJob",
        "vocabulary",
        base={"uri": "base"},
        dataset={"train": [{"uri": "novels"}]},
        train={"vocabSize": 500},
        merge={"maxSize": 768},
    ),
    pretraining(
        "stage-1", model={"uri": "base"}, tokenizer=after("TokenizerJob", "vocabulary"), trainable="Embeddings"
    ),
    pretraining("stage-2", model=after("PretrainJob", "stage-1"), trainable="LoRA", lora={"rank": 4}),
    step(
        "MergeJob",
        "reader",
        model=after("PretrainJob", "stage-1"),
        adapters=[after("PretrainJob", "stage-2")],
        dtype="float32",
    ),
    step(
        "SFTJob",
        "tuned",
        model=after("MergeJob", "reader"),
        dataset={"train": [{"uri": "rows.jsonl"}], "validationSplit": 0},
        template="HumanAssistant",
        training={**TRAINING, "sequenceLength": 128},
        merge=True,
    ),
]


def run(folder: Path, kill: tuple[int, signal.Signals] | None = None) -> tuple[int, str]:
    """Exit code and output of `python -m workloads chain.json` in ``folder``, to which a signal is sent after so many lines."""
    pipe = folder / "told"
    pipe.unlink(missing_ok=True)
    os.mkfifo(pipe)
    process = SERVER.Process(target=_chain, args=(str(folder),))
    process.start()
    lines = []
    with pipe.open(encoding="utf-8") as told:
        for line in told:
            lines.append(line)
            if kill is not None and len(lines) == kill[0]:
                assert process.pid is not None
                os.kill(process.pid, kill[1])
    process.join(120)
    assert process.exitcode is not None, "it closed its output and did not end"
    return process.exitcode, "".join(lines)


def _chain(folder: str) -> None:
    """In the forked process: become `python -m workloads chain.json`."""
    os.chdir(folder)
    os.environ.update(ALPACA_CACHE=f"{folder}/cache", HOME=folder, OMP_NUM_THREADS="1")
    signal.set_wakeup_fd(-1)  # the fork server's own
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    opened = os.open("told", os.O_WRONLY)
    for number in (1, 2):
        os.dup2(opened, number)
    os.close(opened)
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", closefd=False)

    from workloads import __main__

    code = __main__.main(["chain.json"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def ready(library_folder: Path, folder: Path) -> Path:
    """A folder with the chain and all that it reads."""
    folder.mkdir()
    for entry in library_folder.iterdir():
        (folder / entry.name).symlink_to(entry)
    (folder / "rows.jsonl").unlink()
    rows = [
        {"messages": [{"role": "user", "content": f"第{number}问"}, {"role": "assistant", "content": line}]}
        for number, line in enumerate(literature.chinese(24, 11))
    ]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    assert {each["kind"] for each in STEPS} <= set(KINDS)
    items = [{"apiVersion": "literary-alpaca.io/v1alpha1", **each} for each in STEPS]
    (folder / "chain.json").write_text(json.dumps({"kind": "List", "items": items}), encoding="utf-8")
    return folder


def made(folder: Path) -> dict[str, str]:
    """The digest of what each step made."""
    return {each["metadata"]["name"]: lineage.read(folder / "out" / each["metadata"]["name"]).digest for each in STEPS}


def test_a_chain_that_is_killed_at_random_makes_the_same(library_folder: Path, tmp_path: Path) -> None:
    # In the same place both times: an adapter names the folder of its base.
    undisturbed = ready(library_folder, tmp_path / "chain")
    code, told = run(undisturbed)
    assert code == 0, told
    expected = made(undisturbed)
    undisturbed.rename(tmp_path / "undisturbed")

    draw = random.Random(5)
    killed = ready(library_folder, tmp_path / "chain")
    ended = []
    for number in range(KILLS):
        sent = (signal.SIGKILL, signal.SIGTERM)[number % 2]
        code, told = run(killed, (draw.randrange(3, LATEST), sent))
        ended.append(code)
        assert code in (0, -signal.SIGKILL, 75) or "STEP " in told, told  # 75: stopped, run again
    assert len([code for code in ended if code]) > KILLS / 2, "it was done before it was killed often"

    code, told = run(killed)
    assert code == 0, told
    assert made(killed) == expected
    assert [path.name for path in (killed / "out").iterdir() if path.name.startswith(".")] == []
    assert list((killed / "out").glob("*.checkpoints")) == []
