"""A model that ends as one file for llama.cpp, and answers from it, on a real node."""

from __future__ import annotations

import json
import shutil

import httpx
import pytest

from tests.cluster.team import Team, ready, sft_job
from tests.cluster.test_chat import chat
from tests.cluster.test_gates import job, made_by
from tests.workloads import library

pytestmark = [pytest.mark.cluster, pytest.mark.drill]


@pytest.mark.timeout(1800)
def test_a_chain_ends_in_a_file_for_llama_cpp_that_is_served(mine: Team) -> None:
    shutil.rmtree(mine.models / "tiny")  # its tokenizer has no bytes to fall back to, which llama.cpp asks for
    for path in library.write_base(mine.models / "tiny").iterdir():
        path.chmod(0o644)
    tuned = sft_job("tuned", merge=True, output={"uri": "pvc://models/tuned"})
    file = job(
        "QuantizeJob",
        "file",
        model=made_by("SFTJob", "tuned"),
        format="GGUF",
        gguf={"type": "Q8_0"},
        calibration={"train": [{"uri": "pvc://data/rows.json"}], "sequenceLength": 256},
        template="HumanAssistant",
    )
    poet = chat("poet", model=made_by("QuantizeJob", "file"), engine="LlamaCpp", template=None, auth=None)
    mine.apply(tuned, file, poet)
    mine.wait(file, "Succeeded")
    report = json.loads((mine.models / "file" / "report.json").read_text(encoding="utf-8"))
    assert (mine.models / "file" / "Modelfile").is_file(), report
    now = mine.wait(poet, "Serving")
    assert now["status"]["engine"]["name"] == "LlamaCpp"
    address = str(mine.bed.get("service", "poet-chat", "-n", mine.namespace)["spec"]["clusterIP"])
    body = {"model": "poet", "messages": [{"role": "user", "content": "床前明月光"}], "max_tokens": 8, "temperature": 0}
    answers = [
        httpx.post(f"http://{address}:8000/v1/chat/completions", json=body, timeout=60).json()["choices"][0]
        for _ in range(2)
    ]
    assert answers[0]["message"] == answers[1]["message"]
    assert answers[0]["finish_reason"] in ("stop", "length")
    assert ready(now)["reason"] == "Serving"
