"""`python -m workloads.quantize`: what it refuses, and what the gates keep back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import tiny
from tests.workloads.quantized import done, job, run
from tests.workloads.runs import ROOT, merged


def report(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("spec", "config", "message"),
    [
        pytest.param(
            {"groupSize": 128},
            {"hidden_size": 96, "intermediate_size": 192},
            "InvalidSpec: groupSize 128 does not divide the inputs of every layer of spec.model odd (gate_proj, k_proj, o_proj, q_proj, up_proj, "
            "v_proj with 96; down_proj with 192): set it to 32, or -1 for one scale a row",
            id="a group that does not divide",
        ),
        pytest.param(
            {"groupSize": 32},
            {"hidden_size": 40, "intermediate_size": 80},
            "InvalidSpec: groupSize 32 does not divide the inputs of every layer of spec.model odd (gate_proj, k_proj, o_proj, q_proj, up_proj, "
            "v_proj with 40; down_proj with 80): set it to -1 for one scale a row",
            id="no group divides",
        ),
        pytest.param(
            {"groupSize": -1, "bits": 3},
            {"hidden_size": 40, "intermediate_size": 80},
            "InvalidSpec: bits 3: spec.model odd has layers with 40, 80 inputs, and 3-bit weights are packed by 32: set bits to 4 or 8, or name "
            "another model",
            id="bits that cannot be packed",
        ),
        pytest.param(
            {"calibration": {"sequenceLength": 1024}},
            {},
            "InvalidSpec: calibration.sequenceLength 1024 is beyond the 512 positions of the model: lower it to 512, or set "
            "model.ropeScaling.factor to 2 or more",
            id="rows beyond the positions",
        ),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(
    tmp_path: Path, spec: dict[str, Any], config: dict[str, Any], message: str
) -> None:
    tiny.write_model(tmp_path / "odd", hidden=config.pop("hidden_size", 64), **config)
    tiny.write_rows(tmp_path / "rows.json", 20)
    ended = run(tmp_path, job(**merged({"model": {"uri": "odd"}}, spec)))
    assert (ended.exit_code, ended.text.splitlines()[-1]) == (64, message)
    assert not [line for line in ended.lines if line.get("stage") == "Preparing"]


def test_no_library_is_imported_to_refuse_a_group(tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "odd", hidden=96)
    tiny.write_rows(tmp_path / "rows.json", 20)
    (tmp_path / "job.json").write_text(json.dumps(job(model={"uri": "odd"}, groupSize=64)))
    program = (
        "import sys\nfrom alpaca_operator.api.quantize import QuantizeJob\nfrom workloads import quantize\nfrom workloads.runtime import command\n"
        "code = command.main(QuantizeJob, quantize.run, ['job.json'])\n"
        "print(code, sorted({'torch', 'transformers', 'gptqmodel'} & sys.modules.keys()))"
    )
    found = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "ALPACA_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.splitlines()[-1] == "64 []"


def test_a_quantized_model_is_not_quantized_again(made: Path, tmp_path: Path) -> None:
    (tmp_path / "done").symlink_to(made / "out")
    (tmp_path / "rows.json").symlink_to(made / "rows.json")
    ended = run(tmp_path, job(model={"uri": "done"}))
    assert (ended.exit_code, ended.text.splitlines()[-1]) == (
        66,
        "InputNotFound: spec.model done is quantized already (gptq): name the model that it was made from",
    )


@pytest.mark.parametrize(
    ("rows", "spec", "message"),
    [
        pytest.param([], {}, "calibration.train: no rows in 1 file: check the uri", id="an empty file"),
        pytest.param(
            [{"instruction": "问", "output": "答"}] * 3,
            {"calibration": {"minTokens": 64}},
            "calibration.train: no row is left of 3 conversations (3 shorter than 64 tokens): give longer conversations, or lower "
            "calibration.minTokens",
            id="all too short",
        ),
        pytest.param(
            [{"messages": [{"role": "user", "content": "问" * 20}]}] * 2,
            {},
            "calibration.train: no row is left of 2 conversations (2 without an assistant turn): check format and columns, or raise "
            "calibration.sequenceLength",
            id="all masked",
        ),
        pytest.param(
            [{"instruction": "赵先生喜欢什么？", "output": "他喜欢山水云月松石江海风雪花鸟。"}] * 5,
            {},
            "calibration.train: one conversation is left, and the model is quantized by one and measured on another: add rows, or give "
            "evaluation.validation",
            id="one, five times",
        ),
    ],
)
def test_rows_that_leave_nothing_to_weigh_by_are_told(
    bench: Path, rows: list[dict[str, Any]], spec: dict[str, Any], message: str
) -> None:
    (bench / "own.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    ended = run(bench, job(**merged({"calibration": {"train": [{"uri": "own.json"}]}}, spec)))
    assert (ended.exit_code, ended.text.splitlines()[-1]) == (65, f"InvalidData: {message}")
    assert not (bench / "out").exists()


# Gates


def test_a_result_that_loses_too_much_is_not_published_and_its_report_is_kept(bench: Path) -> None:
    # Measured on rows that the model knows by heart. On others it is so bad that the noise of 2 bits makes it better, on some machines.
    tiny.write_rows(bench / "known.json", 192, seed=5)
    known = {"validation": [{"uri": "known.json"}]}
    ended = run(bench, job(bits=2, maxPerplexityIncrease=0.0001, minStopRate=1, evaluation=known))
    figures = report(bench / "out.rejected")["metrics"]
    before, after = figures["perplexityBefore"], figures["perplexity"]
    assert (ended.exit_code, ended.termination["reason"]) == (64, "GateFailed")
    assert ended.termination["message"] == (
        f"perplexity rose by {after / before - 1:.2%}, from {before:.4f} to {after:.4f}, and maxPerplexityIncrease 0.0001 allows 0.01%; "
        f"{figures['stopRate']:.1%} of the answers ended by themselves (before: {figures['stopRateBefore']:.1%}), and minStopRate 1 asks for "
        "100.0%: nothing is published, the report is at out.rejected"
    )
    assert not (bench / "out").exists()
    assert sorted(path.name for path in (bench / "out.rejected").iterdir()) == [
        "layer-error.svg",
        "report.html",
        "report.json",
        "report.md",
    ]
    (kept,) = (path for path in (bench / "out.checkpoints").iterdir() if path.is_dir())
    assert [path.name for path in kept.iterdir()] == ["layers"], "working files stayed behind a broken gate"
    assert not list(kept.glob("layers/attempt-*")), "working files stayed behind a broken gate"

    done(run(bench, job(bits=8, maxPerplexityIncrease=0.05, minStopRate=0.25, evaluation=known)))
    assert (bench / "out").is_dir()
    assert not (bench / "out.rejected").exists(), "it spoke of another result"


def test_a_model_without_numbers_is_refused_before_it_is_quantized(made: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(made / "tuned", tmp_path / "tuned")
    (tmp_path / "rows.json").symlink_to(made / "rows.json")
    weights = load_file(tmp_path / "tuned" / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, tmp_path / "tuned" / "model.safetensors", {"format": "pt"})
    ended = run(tmp_path, job())
    assert (ended.exit_code, ended.termination["reason"], ended.termination["message"]) == (
        64,
        "GateFailed",
        "perplexity before quantization is nan: the model gives no numbers on the measured rows; name one that was not saved broken, in a type "
        "that holds its values",
    )
    assert not [line for line in ended.lines if line.get("stage") == "Quantizing"]
