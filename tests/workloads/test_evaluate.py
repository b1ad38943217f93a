"""`python -m workloads.evaluate`: what is measured, what is refused, what gates keep back, and how a stopped run goes on."""

from __future__ import annotations

import csv
import json
import math
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import evaluated, quantized, tiny
from tests.workloads.answering import Answering, Body, refused, said
from tests.workloads.evaluated import QUESTIONS, job, model
from tests.workloads.runs import Ended, Line, Place
from tests.workloads.runs import job as sft_job
from workloads.models import libraries

libraries.quiet()


@pytest.fixture(scope="module")
def gallery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `evaluated.write` makes; not to be written to."""
    return evaluated.write(tmp_path_factory.mktemp("gallery"))


@pytest.fixture
def place(gallery: Path, tmp_path: Path) -> Place:
    for entry in gallery.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return Place(tmp_path)


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


def report(place: Place, folder: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place.folder / folder / "report.json").read_text(encoding="utf-8"))
    return found


def metrics(place: Place, name: str, folder: str = "out") -> dict[str, Any]:
    return next(one["metrics"] for one in report(place, folder)["models"] if one["name"] == name)


def test_models_are_compared_on_rows_and_questions(place: Place) -> None:
    ended = done(place.run(job(gates=[{"metric": "stopRate", "model": "tuned", "min": 0.5}])))
    assert sorted(path.name for path in (place.folder / "out").iterdir()) == [
        "artifact.json",
        "report.csv",
        "report.html",
        "report.json",
        "report.md",
    ]
    base, tuned = metrics(place, "base"), metrics(place, "tuned")
    assert tuned["perplexity"] < 2 < base["perplexity"]
    assert tuned["bitsPerByte"] < base["bitsPerByte"]
    assert tuned["tokenAccuracy"] > 0.7 > base["tokenAccuracy"]
    assert tuned["evalTokens"] == base["evalTokens"]
    assert (tuned["stopRate"], base["stopRate"]) == (1.0, 0.0)
    assert base["answerTokens"] == 64 > tuned["answerTokens"]
    assert tuned["chineseShare"] == 1.0
    artifact = json.loads((place.folder / "out" / "artifact.json").read_text(encoding="utf-8"))
    assert artifact["kind"] == "Report"
    assert artifact["metrics"] == ended.termination["metrics"]
    assert next(iter(artifact["metrics"])) == "tuned/stopRate", "what a gate looks at comes first"
    assert artifact["metrics"]["base/perplexity"] == base["perplexity"]
    questions = report(place)["questions"]
    assert [question["question"] for question in questions] == [question["question"] for question in QUESTIONS]
    assert all(question["answers"]["tuned"]["ending"] == "Stopped" for question in questions)
    assert {
        category: figures["stopRate"] for category, figures in report(place)["models"][1]["categories"].items()
    } == {
        "人物": 1.0,
        "风景": 1.0,
    }
    assert not (place.folder / "out.checkpoints").exists()
    stages = list(dict.fromkeys(line["stage"] for line in ended.lines if "stage" in line))
    assert stages == ["Loading", "Preparing", "Evaluating", "Answering", "Saving"]
    assert [line for line in ended.lines if "step" in line][-1]["step"] == 2 * (24 + 6)


def test_the_same_report_as_csv_and_markdown(place: Place) -> None:
    done(place.run(job(model("tuned"))))
    with (place.folder / "out" / "report.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    answers = [question["answers"]["tuned"]["text"] for question in report(place)["questions"]]
    assert [row["tuned"] for row in rows] == answers
    assert rows[0]["reference"] == QUESTIONS[0]["reference"]
    assert rows[0]["tuned: ending"] == "ended by itself"
    markdown = (place.folder / "out" / "report.md").read_text(encoding="utf-8")
    assert all(answer in markdown for answer in answers)
    assert str(place.folder) not in markdown, "places are as the spec names them"


def test_what_was_measured_is_there_already(place: Place) -> None:
    first = done(place.run(job(model("tuned"))))
    again = done(place.run(job(model("tuned"))))
    assert again.termination["reason"] == "Reused"
    assert again.termination["output"]["digest"] == first.termination["output"]["digest"]


def test_batches_change_no_answer(place: Place) -> None:
    done(place.run(job(generation={"batchSize": 1, "temperature": 0.8})))
    done(place.run(job(generation={"batchSize": 6, "temperature": 0.8}, output={"uri": "batched"})))
    one, six = report(place)["questions"], report(place, "batched")["questions"]
    assert one == six
    for name in ("base", "tuned"):
        assert metrics(place, name)["bitsPerByte"] == pytest.approx(
            metrics(place, name, "batched")["bitsPerByte"], rel=1e-5
        )


def test_an_adapter_on_its_base_is_measured_as_the_merged_model_is(place: Place) -> None:
    tune = {
        "model": {"uri": "base"},
        "dataset": {"train": [{"uri": "rows.json"}]},
        "training": {"epochs": 4},
        "merge": True,
    }
    done(place.run(sft_job(**tune, output={"uri": "merged"})))
    ended = done(
        place.run(
            job(
                model("base"),
                model("base", name="on-base", adapters=[{"uri": "merged/adapter"}]),
                {"name": "merged", "model": {"uri": "merged"}},
            )
        )
    )
    assert metrics(place, "on-base")["perplexity"] == pytest.approx(metrics(place, "merged")["perplexity"], rel=1e-4)
    assert metrics(place, "on-base")["perplexity"] < 0.9 * metrics(place, "base")["perplexity"]
    assert [one["kind"] for one in report(place)["models"]] == ["Model", "LoRAAdapter", "Model"]
    assert ended.termination["resolvedPolicy"]["on-base"]["weights"] == "float32"


def test_rows_that_one_model_cannot_hold_are_measured_on_none(place: Place) -> None:
    """A vocabulary of few pieces makes longer rows of the same text."""
    tiny.write_model(place.folder / "small", hidden=32)
    tokenizer = tiny.write_tokenizer(place.folder / "small", vocabulary=120)
    assert len(tokenizer) == 120
    ended = done(place.run(job(model("tuned"), model("small"), dataset={"sequenceLength": 56}, prompts=None)))
    lines = report(place)["heldOut"]["lines"]
    left_out = report(place)["heldOut"]["leftOut"]
    assert 0 < left_out < 24
    assert (
        f"left out: {left_out} that not every model can hold in 56 tokens: raise dataset.sequenceLength to measure them too"
        in lines
    )
    assert [line.split(" rows")[0] for line in lines[-2:]] == [f"tuned: {24 - left_out}", f"small: {24 - left_out}"]
    assert "data: 24 conversations read" in ended.messages


GATES = [
    {"metric": "stopRate", "model": "base", "min": 0.5},
    {"metric": "perplexity", "model": "tuned", "max": 1.01},
    {"metric": "stopRate", "model": "tuned", "min": 1.0},
]


def test_a_broken_gate_keeps_the_report_beside_and_publishes_nothing(place: Place) -> None:
    ended = place.run(job(gates=GATES))
    assert ended.exit_code == 64
    perplexity = metrics(place, "tuned", "out.rejected")["perplexity"]
    assert perplexity > 1.01
    message = ended.termination["message"]
    found = float(message.partition("perplexity of tuned is ")[2].partition(",")[0])
    assert found == pytest.approx(perplexity, rel=1e-5)
    assert message == (
        f"stopRate of base is 0, below min 0.5; perplexity of tuned is {found}, above max 1.01: nothing is published, the report is at "
        "out.rejected"
    )
    assert ended.termination["reason"] == "GateFailed"
    assert ended.text.splitlines()[-1] == f"GateFailed: {message}"
    assert not (place.folder / "out").exists()
    assert [gate["passed"] for gate in report(place, "out.rejected")["gates"]] == [False, False, True]
    markdown = (place.folder / "out.rejected" / "report.md").read_text(encoding="utf-8")
    assert "| stopRate | base | 0.0 % | ≥ 50.0 % | broken |" in markdown

    passing = done(place.run(job(gates=[GATES[2]])))
    assert passing.termination["reason"] == "Succeeded"
    assert not (place.folder / "out.rejected").exists(), "it spoke of another result"


def test_a_perplexity_that_is_no_number_breaks_its_gate_and_is_told_as_missing(place: Place) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = place.folder / "spoilt"
    tiny.write_model(folder, hidden=64)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][5] = math.nan
    save_file(
        {name: torch.clone(weight) for name, weight in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    ended = place.run(job(model("spoilt"), gates=[{"metric": "perplexity", "model": "spoilt", "max": 1e30}]))
    assert ended.exit_code == 64
    assert ended.termination["message"].startswith(
        "perplexity of spoilt is not a number, with a bound of max 1e+30: nothing is published"
    )
    assert metrics(place, "spoilt", "out.rejected")["perplexity"] is None
    page = (place.folder / "out.rejected" / "report.html").read_text(encoding="utf-8")
    assert "NaN" in page


@pytest.mark.parametrize(
    ("change", "exit_code", "message"),
    [
        pytest.param(
            {"gates": [{"metric": "bitsPerBite", "model": "tuned", "max": 1}]},
            64,
            "spec.gates[0].metric: bitsPerBite will not be in the report: did you mean bitsPerByte? There will be perplexity, bitsPerByte, "
            "tokenAccuracy, evalLoss, evalTokens, stopRate, repetitionRate, chineseShare, answerTokens, answerCharacters, emptyRate, "
            "answerTokensPerSecond, exactMatch, tokenF1, chrF, peakMemoryBytes, weightBytes",
            id="a gate on a metric that there will not be",
        ),
        pytest.param(
            {"models": [{"name": "base", "model": {"uri": "base"}}]},
            64,
            "spec.models[0] (base): template: FromModel, but the model's tokenizer has no chat template: set template to HumanAssistant "
            "(or Llama2, Llama3, ChatML, whichever the model was trained with), or give a templateFile",
            id="a model that cannot be asked",
        ),
        pytest.param(
            {"dataset": {"sequenceLength": 16}},
            65,
            "dataset.validation: of 24 conversations none is left that every model can hold in 16 tokens (base: 24 longer than 16 tokens in "
            "every turn; tuned: 24 longer than 16 tokens in every turn): raise dataset.sequenceLength, or check format and columns",
            id="rows that nobody can hold",
        ),
        pytest.param(
            {"prompts": {"file": {"uri": "long.jsonl"}}},
            65,
            "{folder}/long.jsonl, line 1: the question has {tokens} tokens for base, which has 512 positions: shorten it, or leave it out",
            id="a question beyond the positions",
        ),
        pytest.param(
            {
                "systemPromptPreset": "llama2-zh",
                "models": [model("tuned", templateFile={"uri": "plain.jinja"}, template="FromModel")],
                "dataset": None,
            },
            64,
            "{folder}/questions.jsonl, line 1: template templateFile of tuned cannot ask it (no system prompts here): remove the system prompt, "
            "or name another template",
            id="a system prompt that the template refuses",
        ),
    ],
)
def test_what_cannot_be_measured_is_told_before_anything_is_loaded(
    change: dict[str, Any], exit_code: int, message: str, place: Place
) -> None:
    (place.folder / "long.jsonl").write_text(json.dumps({"question": "山" * 600}), encoding="utf-8")
    (place.folder / "plain.jinja").write_text(
        "{%- for message in messages %}{%- if message.role == 'system' %}{{ raise_exception('no system prompts here') }}{%- endif %}"
        "{{ message.role + ': ' + message.content }}{%- if message.role == 'assistant' %}{{ eos_token }}{%- endif %}{%- endfor %}",
        encoding="utf-8",
    )
    ended = place.run(job(**change))
    tokens = ended.termination["message"].partition("has ")[2].partition(" ")[0]
    assert ended.termination["message"] == message.format(folder=place.folder, tokens=tokens)
    assert ended.exit_code == exit_code
    assert not any("weights" in line for line in ended.messages)
    assert not (place.folder / "out").exists()


def test_an_adapter_of_another_vocabulary_is_refused_with_both_numbers(place: Place) -> None:
    tiny.write_model(place.folder / "other", hidden=64, vocab_size=320)
    done(
        place.run(
            sft_job(
                model={"uri": "other"},
                dataset={"train": [{"uri": "rows.json"}]},
                lora={"modulesToSave": ["embed_tokens", "lm_head"]},
                output={"uri": "adapter"},
            )
        )
    )
    ended = place.run(job(model("base"), model("base", name="adapted", adapters=[{"uri": "adapter"}])))
    assert ended.exit_code == 65
    assert ended.termination["message"] == (
        "spec.models[1].adapters[0] adapter has a vocabulary of 320 rows and the base base one of 256: name the base that the adapter was "
        "made from, or merge the two with a MergeJob, which makes the base's embeddings grow"
    )


def at(stage: str, step: int, number: int) -> Callable[[Line], int | None]:
    """Send the signal once the run is that far."""
    return lambda line: number if line.get("stage") == stage and line.get("step", 0) >= step else None


@pytest.mark.parametrize(
    ("stage", "step"),
    [
        pytest.param("Evaluating", 4, id="while rows are scored"),
        pytest.param("Answering", 28, id="while questions are answered"),
        pytest.param("Evaluating", 36, id="while the second model is measured"),
    ],
)
def test_a_stopped_run_goes_on_behind_what_it_has_found(stage: str, step: int, place: Place) -> None:
    whole = job(output={"uri": "whole"})
    done(place.run(whole))
    stopped = place.run(job(), at=at(stage, step, signal.SIGTERM))
    assert stopped.exit_code == 75
    counted = int(stopped.termination["message"].split()[2])
    assert (
        stopped.termination["message"]
        == f"stopped after {counted} of 60 measurements, which are kept: run again to go on"
    )
    assert stopped.termination["checkpoint"]["step"] == counted >= step
    ended = done(place.run(job()))
    assert next(line["step"] for line in ended.lines if "step" in line) >= counted
    assert report(place)["questions"] == report(place, "whole")["questions"]
    for name in ("base", "tuned"):
        exact = ("perplexity", "bitsPerByte", "tokenAccuracy", "stopRate", "repetitionRate", "answerTokens")
        assert [metrics(place, name)[key] for key in exact] == [metrics(place, name, "whole")[key] for key in exact]


def test_a_killed_run_leaves_nothing_half_made(place: Place) -> None:
    killed = place.run(job(), at=at("Answering", 52, signal.SIGKILL))
    assert killed.exit_code == -signal.SIGKILL
    assert not (place.folder / "out").exists()
    ended = done(place.run(job()))
    assert any(message.startswith("going on behind run-") for message in ended.messages), "the first model was saved"


def prefers(text: str) -> Callable[[Body], tuple[int, Body]]:
    """A judge that holds an answer for better if it is the reference, in whichever order."""

    def judge(body: Body) -> tuple[int, Body]:
        asked = body["messages"][-1]["content"]
        reference = asked.partition("what a good answer says>\n")[2].partition("\n</reference>")[0]
        first, second = (f"<answer of {which}>\n{reference}\n</answer" in asked for which in "AB")
        return said(f"{text} [[{'C' if first == second else 'A' if first else 'B'}]]")

    return judge


def test_an_api_a_judge_an_original_and_references(place: Place) -> None:
    known = {question["question"]: question["reference"] for question in QUESTIONS}
    turns = iter(range(1000))

    def api(body: Body) -> tuple[int, Body]:
        ending = "length" if next(turns) == 1 else "stop"
        return said(known.get(body["messages"][-1]["content"], "好"), ending)

    place.environment["ALPACA_MODELS_2_API_KEY"] = "s3cret"
    with Answering(api) as served, Answering(prefers("好。"), ("judge",)) as court:
        spec = {
            "original": "base",
            "judge": {"endpoint": {"url": court.url}, "against": "base"},
            "gates": [
                {"metric": "winRate", "model": "api", "min": 0.9},
                {"metric": "exactMatch", "model": "api", "min": 1},
                {"metric": "tokenAgreement", "model": "tuned", "max": 0.9},
                {"metric": "meanDivergence", "model": "tuned", "min": 0.1},
            ],
        }
        ended = done(
            place.run(job(model("base"), model("tuned"), {"name": "api", "endpoint": {"url": served.url}}, **spec))
        )
    found = {one["name"]: one for one in report(place)["models"]}
    api_metrics, tuned = found["api"]["metrics"], found["tuned"]["metrics"]
    assert served.keys == {"Bearer s3cret"}
    assert court.keys == {"Bearer none"}
    assert (found["api"]["uri"], found["api"]["kind"]) == (f"{served.url} (poet)", "Endpoint")
    assert {api_metrics[name] for name in ("exactMatch", "tokenF1", "chrF", "winRate")} == {1.0}
    assert api_metrics["stopRate"] == pytest.approx(5 / 6), "one was cut, and not the one token that was tried"
    assert not {"perplexity", "peakMemoryBytes", "tokenAgreement"} & api_metrics.keys()
    (gap,) = found["api"]["notMeasured"]
    assert {"perplexity", "bitsPerByte", "tokenAgreement"} <= {*gap["metrics"]}
    assert gap["why"] == "an endpoint tells no probabilities of a given text, and nothing of its memory"
    answers = [question["answers"] for question in report(place)["questions"]]
    right = sum(one["tuned"]["text"] == known[q["question"]] for one, q in zip(answers, QUESTIONS, strict=True)) / 6
    assert 0 < right == pytest.approx(tuned["exactMatch"], rel=1e-5)
    assert (tuned["winRate"], tuned["tieRate"]) == pytest.approx((right, 1 - right), abs=1e-5)
    assert answers[0]["api"]["judgement"]["outcome"] == "win"
    assert answers[0]["api"]["scores"] == {"exactMatch": 1.0, "tokenF1": 1.0, "chrF": 1.0}
    assert found["api"]["intervals"]["winRate"] == pytest.approx([0.6097, 1], abs=1e-3)
    assert found["api"]["measuredOn"]["judgements"] == 6
    assert report(place)["judge"] == {
        "uri": f"{court.url} (judge)",
        "against": "base",
        "sameInBothOrders": {"tuned": 1.0, "api": 1.0},
    }
    assert 0 < tuned["tokenAgreement"] < 0.9
    assert tuned["meanDivergence"] > 0.1
    assert found["tuned"]["intervals"]["meanDivergence"][0] < tuned["meanDivergence"]
    assert "tokenAgreement" not in found["base"]["metrics"]
    assert [line for line in ended.lines if "step" in line][-1]["step"] == 2 * (24 + 6) + 6 + 12
    assert not (place.folder / "out.checkpoints").exists(), "nothing is left of what the original foretold"


def test_a_comparison_with_the_original_goes_on_after_a_stop(place: Place) -> None:
    spec = {"original": "base", "prompts": None}
    done(place.run(job(**spec, output={"uri": "whole"})))
    stopped = place.run(job(**spec), at=at("Evaluating", 36, signal.SIGTERM))
    assert stopped.exit_code == 75
    done(place.run(job(**spec)))
    names = ("tokenAgreement", "meanDivergence", "perplexity", "bitsPerByte")
    assert [metrics(place, "tuned")[name] for name in names] == [
        metrics(place, "tuned", "whole")[name] for name in names
    ]
    edges = [report(place, folder)["models"][1]["intervals"]["meanDivergence"] for folder in ("out", "whole")]
    assert edges[0] == edges[1]


def test_judgements_that_were_made_are_not_asked_for_again(place: Place) -> None:
    asked: list[int] = []

    def court(body: Body) -> tuple[int, Body]:
        asked.append(1)
        return refused(400, "the budget is spent") if len(asked) > 9 else said("[[A]]")

    with Answering(court) as server:
        spec: dict[str, Any] = {
            "dataset": None,
            "judge": {"endpoint": {"url": server.url}, "against": "base"},
            "generation": {"batchSize": 1},
        }
        ended = place.run(job(**spec))
        assert ended.exit_code == 64
        assert ended.termination["message"] == (
            f"spec.judge.endpoint: {server.url} refuses the question (Error code: 400 - the budget is spent): correct the model, or the setting "
            "that it names"
        )
        before = len(asked)
        asked.clear()
        done(place.run(job(**spec)))
    assert before >= 10, "it was tried out, four pairs were judged, and the fifth was not"
    assert len(asked) == 1 + 4, "the two pairs that were left, in two orders"
    assert metrics(place, "tuned")["tieRate"] == 1.0


def test_held_out_conversations_are_asked_up_to_their_last_answer(place: Place) -> None:
    talk = {"messages": [{"role": role, "content": text} for role, text in (
        ("system", "你是诗人。"), ("user", "作者是谁？"), ("assistant", "柳宗元。"), ("user", "题目呢？"), ("assistant", "江雪。"),
    )]}  # fmt: skip
    (place.folder / "talks.jsonl").write_text(json.dumps(talk, ensure_ascii=False), encoding="utf-8")
    with Answering(lambda body: said("《江雪》")) as server:
        done(
            place.run(
                job(
                    {"name": "api", "endpoint": {"url": server.url}},
                    dataset={"validation": [{"uri": "talks.jsonl"}]},
                    prompts={"file": None, "heldOut": 4},
                )
            )
        )
    assert server.asked[1]["messages"] == talk["messages"][:-1]
    (question,) = report(place)["questions"]
    assert (question["question"], question["reference"], question["category"]) == ("题目呢？", "江雪。", "heldOut")
    assert question["before"] == talk["messages"][:3]
    assert metrics(place, "api")["exactMatch"] == 1.0


def test_positions_are_stretched_as_the_spec_says(place: Place) -> None:
    ended = done(
        place.run(
            job(
                model("tuned"),
                model(
                    "tuned", name="stretched", model={"uri": "tuned", "ropeScaling": {"type": "linear", "factor": 4}}
                ),
                prompts=None,
            )
        )
    )
    assert metrics(place, "stretched")["perplexity"] > 1.1 * metrics(place, "tuned")["perplexity"]
    assert ended.exit_code == 0


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        pytest.param(
            {"metric": "perplexity", "model": "api", "max": 9},
            "spec.gates[0].metric: perplexity of api will not be in the report: an endpoint tells no probabilities of a given text, and "
            "nothing of its memory; remove the gate",
            id="a perplexity over an API",
        ),
        pytest.param(
            {"metric": "tokenAgreement", "model": "other", "min": 0.5},
            "spec.gates[0].metric: tokenAgreement of other will not be in the report: it reads the rows in other tokens than the original, so "
            "that positions cannot be compared; remove the gate",
            id="an agreement in other tokens",
        ),
        pytest.param(
            {"metric": "winRate", "model": "api", "min": 0.5},
            "spec.gates[0].metric: winRate is measured on judge, which the spec does not have: add it",
            id="a win rate without a judge",
        ),
    ],
)
def test_a_gate_on_what_cannot_be_measured_is_refused_before_anything_is_loaded(
    gate: dict[str, Any], message: str, place: Place
) -> None:
    (place.folder / "other").symlink_to(place.folder / "base")
    with Answering(lambda body: said("好")) as server:
        models = [model("base"), model("other", template="Llama2"), {"name": "api", "endpoint": {"url": server.url}}]
        ended = place.run(job(*models, original="base", gates=[gate]))
    assert (ended.exit_code, ended.termination["message"]) == (64, message)
    assert not any("weights" in line for line in ended.messages)


def test_memory_is_that_of_one_model(place: Place) -> None:
    """In half precision on disk, so that in memory they are copies and no mapped files."""
    import torch
    from safetensors.torch import load_file, save_file

    large = {"intermediate_size": 4096, "num_hidden_layers": 8}
    tiny.write_model(place.folder / "one", hidden=512, **large)
    file = place.folder / "one" / "model.safetensors"
    size = file.stat().st_size
    assert size > 200e6
    save_file({name: weight.to(torch.bfloat16) for name, weight in load_file(file).items()}, file, {"format": "pt"})
    for name in ("two", "three"):
        (place.folder / name).symlink_to(place.folder / "one")
    settings = {"prompts": None, "dataset": {"samples": 2}}
    alone = done(place.run(job(model("one"), **settings)))
    together = done(place.run(job(model("one"), model("two"), model("three"), **settings, output={"uri": "together"})))
    assert together.peak_bytes - alone.peak_bytes < 0.25 * size
    peaks = [metrics(place, name, "together")["peakMemoryBytes"] for name in ("one", "two", "three")]
    assert max(peaks) - min(peaks) < 0.25 * size, "and is given back between them"


def quantized_by_gptq(place: Place) -> None:
    """`gptq`: the tuned model in 4 bits."""
    ended = quantized.run(
        place.folder,
        quantized.job(
            model={"uri": "tuned"},
            calibration={"samples": 16},
            evaluation={"answers": 1},
            output={"uri": "gptq"},
        ),
    )
    assert ended.exit_code == 0, ended.text


def test_full_8_bit_4_bit_and_gptq_models_are_measured_in_one_run(place: Place) -> None:
    """Cold, as only a process of its own has the packages that other jobs hide."""
    quantized_by_gptq(place)
    evaluated.write_task(place.folder / "tasks")
    ended = done(
        place.run(
            job(
                model("tuned"),
                {**model("tuned"), "name": "int8", "load": {"bits": 8}},
                {**model("tuned"), "name": "nf4", "load": {"bits": 4}},
                {"name": "gptq", "model": {"uri": "gptq"}},
                prompts={"limit": 2},
                tasks=[{"name": "likes", "limit": 6}],
                taskFiles={"uri": "tasks"},
                gates=[{"metric": "likes/acc", "model": "tuned", "min": 0.5}],
            ),
            cold=True,
        )
    )
    assert [one["weights"] for one in report(place)["models"]] == ["float32", "int8", "nf4", "gptq"]
    assert [one["kind"] for one in report(place)["models"]] == ["Model", "Model", "Model", "GPTQModel"]
    best = metrics(place, "tuned")["perplexity"]
    for name in ("int8", "nf4", "gptq"):
        assert best * 0.9 < metrics(place, name)["perplexity"] < 3 * best
    assert metrics(place, "tuned")["likes/acc"] == 1.0
    by_name = {one["name"]: one for one in report(place)["models"]}
    assert by_name["tuned"]["standardErrors"] == {"likes/acc": 0.0}
    assert by_name["tuned"]["intervals"]["likes/acc"] == pytest.approx([0.6097, 1], abs=1e-3), "Wilson's, of six of six"
    assert by_name["tuned"]["measuredOn"]["taskQuestions"] == 6
    kept = (place.folder / "out" / "samples" / "gptq.jsonl").read_text(encoding="utf-8")
    samples = [json.loads(line) for line in kept.splitlines()]
    assert [(sample["task"], sample["id"]) for sample in samples] == [("likes", number) for number in range(6)]
    assert sum(sample["metrics"]["acc"] for sample in samples) / 6 == pytest.approx(metrics(place, "gptq")["likes/acc"])
    assert ended.termination["metrics"]["tuned/likes/acc"] == 1.0
    assert "loglikelihood" not in ended.text, "no bars of the harness"


def test_too_little_memory_is_told_with_what_takes_less() -> None:
    """In this process: a real shortage would take others with it."""
    from types import SimpleNamespace
    from typing import cast

    from workloads.errors import OutOfMemory
    from workloads.evaluation.candidates import Candidate
    from workloads.evaluation.measuring import explaining_out_of_memory

    candidate = cast(Candidate, SimpleNamespace(name="poet"))
    with pytest.raises(OutOfMemory) as told, explaining_out_of_memory(candidate):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate")
    assert str(told.value) == (
        "out of memory while poet was measured: lower generation.batchSize, dataset.sequenceLength or generation.maxNewTokens, set load.bits "
        "to 8 or 4 on the model, or ask for more memory in pod.resources.limits"
    )
