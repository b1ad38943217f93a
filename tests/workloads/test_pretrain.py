"""`python -m workloads.pretrain`: what is trained, what is not, what lies at the output, and that a killed run goes on exactly."""

from __future__ import annotations

import json
import math
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.library import job
from tests.workloads.runs import Ended, Line, Place

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers

VERSE = "春江潮水连海平，海上明月共潮生。Spring river, full moon.\n滟滟随波千万里"
CLOSE = 2e-5
"""Float32 sums in another order."""


def weights(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    (file,) = folder.glob("*model.safetensors")
    return load_file(file)


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


def published(place: Place, name: str = "out") -> tuple[Any, Any]:
    """The model and the tokenizer at the output, loaded as anybody would."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = place.folder / name
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def loss_on(model: Any, tokenizer: Any, text: str) -> float:
    """Nats a token, over a document with what begins and ends it."""
    import torch

    ids = torch.tensor([[1, *tokenizer(text, add_special_tokens=False)["input_ids"], 2]])
    with torch.inference_mode():
        return float(model.eval()(input_ids=ids, labels=ids).loss)


def test_embeddings_alone_move_and_the_whole_model_is_published(study: Place) -> None:
    ended = done(
        study.run(job(tokenizer={"uri": "vocab"}, trainable="Embeddings", training={"reportTo": ["TensorBoard"]}))
    )
    out = study.folder / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "artifact.json",
        "config.json",
        "generation_config.json",
        "loss.csv",
        "loss.png",
        "model.safetensors",
        "runs",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
    ]
    artifact = json.loads((out / "artifact.json").read_text(encoding="utf-8"))
    assert artifact["kind"] == "Model"
    assert sorted(artifact["inputs"]) == ["dataset.train[0]", "dataset.train[1]", "model", "tokenizer"]
    assert set(artifact["metrics"]) == {
        *("steps", "epochs", "tokens", "trainLoss", "finalLoss"),
        *("evalLoss", "perplexity", "bitsPerByte", "meanTokenAccuracy"),
        *("evalLossBefore", "perplexityBefore", "bitsPerByteBefore", "meanTokenAccuracyBefore"),
        *("goodputSteps", "goodputTime"),
    }
    assert artifact["metrics"]["bitsPerByte"] < artifact["metrics"]["bitsPerByteBefore"]
    assert artifact["metrics"]["evalLossBefore"] == ended.evaluations[0]
    before, after = weights(study.folder / "base"), weights(out)
    assert {
        name for name in before if before[name].shape != after[name].shape or (before[name] != after[name]).any()
    } == {
        "model.embed_tokens.weight",
        "lm_head.weight",
    }
    model, tokenizer = published(study)
    assert model.config.vocab_size == len(tokenizer) == len(model.get_input_embeddings().weight) == 960
    assert ended.losses[max(ended.losses)] < ended.losses[1] - 0.5
    card = (out / "README.md").read_text(encoding="utf-8")
    assert str(study.folder) not in card
    assert "A first stage of continued pretraining (embeddings only) of `base`" in card


def test_a_checkpoint_of_embeddings_holds_no_frozen_layer(study: Place) -> None:
    def at(line: Line) -> int | None:
        return signal.SIGTERM if line.get("step") == 3 else None

    assert study.run(job(model={"uri": "tied"}, trainable="Embeddings"), at=at).exit_code == 75
    (file,) = (study.folder / "out.checkpoints").glob("run-*/checkpoint-*/model.safetensors")
    assert set(weights(file.parent)) == {"model.embed_tokens.weight"}
    ended = done(study.run(job(model={"uri": "tied"}, trainable="Embeddings")))
    whole = done(study.run(job(model={"uri": "tied"}, trainable="Embeddings", output={"uri": "whole"})))
    assert all(whole.losses[step] == loss for step, loss in ended.losses.items())
    first, again = weights(study.folder / "whole"), weights(study.folder / "out")
    assert sorted(first) == sorted(again)
    assert all((first[name] == again[name]).all() for name in first)


def test_a_base_with_a_temperature_and_no_sampling_is_published_with_another_vocabulary(study: Place) -> None:
    """As meta-llama's first Llama-2 files had it."""
    base = study.folder / "first"
    shutil.copytree(study.folder / "base", base)
    generation = {"bos_token_id": 1, "eos_token_id": 2, "temperature": 0.9, "top_p": 0.6}
    (base / "generation_config.json").write_text(json.dumps(generation))
    done(study.run(job(model={"uri": "first"}, tokenizer={"uri": "vocab"}, training={"maxSteps": 1})))
    saved = json.loads((study.folder / "out" / "generation_config.json").read_text())
    assert (saved["temperature"], saved["do_sample"]) == (0.9, True)


@pytest.mark.parametrize("base", ["base", "tied"])
def test_an_adapter_with_new_rows_is_base_and_adapter_when_loaded(study: Place, base: str) -> None:
    import peft
    from transformers import AutoModelForCausalLM, AutoTokenizer

    (study.folder / "own.txt").write_text(VERSE, encoding="utf-8")
    ended = done(
        study.run(
            job(
                model={"uri": base},
                tokenizer={"uri": "vocab"},
                trainable="LoRA",
                lora={"rank": 8, "alpha": 16},
                dataset={"validation": [{"uri": "own.txt"}]},
            )
        )
    )
    out = study.folder / "out"
    artifact = json.loads((out / "artifact.json").read_text(encoding="utf-8"))
    assert artifact["kind"] == "LoRAAdapter"
    saved = weights(out)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in saved if "lora_" not in name} <= {
        "embed_tokens",
        "lm_head",
    }
    assert all(len(weight) == 960 for name, weight in saved.items() if "lora_" not in name)

    tokenizer = AutoTokenizer.from_pretrained(out)
    loaded = AutoModelForCausalLM.from_pretrained(study.folder / base)
    loaded.resize_token_embeddings(len(tokenizer))
    loaded = peft.PeftModel.from_pretrained(loaded, str(out)).eval()
    assert loss_on(loaded, tokenizer, VERSE) == pytest.approx(ended.termination["metrics"]["evalLoss"], rel=1e-5)


@pytest.mark.parametrize(("bits", "held"), [(4, "nf4"), (8, "int8")])
def test_an_adapter_is_trained_on_a_base_in_few_bits(bits: int, held: str, study: Place) -> None:
    spec: dict[str, Any] = {
        "trainable": "LoRA",
        "lora": {"rank": 8, "alpha": 16, "dropout": 0},
        "training": {"maxSteps": 6},
    }
    whole = done(study.run(job(**spec, output={"uri": "whole"})))
    ended = done(study.run(job(**spec, load={"bits": bits}), cold=True))
    assert ended.termination["resolvedPolicy"]["weights"] == held
    close = 0.1 if bits == 4 else 0.02
    assert ended.losses == pytest.approx(whole.losses, abs=close), "what is lost is the base's last digits"
    assert ended.losses != whole.losses
    assert ended.losses[6] < ended.losses[1] - 0.1
    saved, expected = weights(study.folder / "out"), weights(study.folder / "whole")
    assert {name: weight.shape for name, weight in saved.items()} == {
        name: weight.shape for name, weight in expected.items()
    }


def test_everything_moves_and_the_loss_falls(study: Place) -> None:
    ended = done(study.run(job(trainable="Full", training={"epochs": 3, "learningRate": 3e-3})))
    before, after = weights(study.folder / "base"), weights(study.folder / "out")
    assert all((before[name] != after[name]).any() for name in before)
    assert ended.losses[max(ended.losses)] < 0.7 * ended.losses[1]


def test_a_model_from_scratch_has_the_shape_asked_for(study: Place) -> None:
    scratch: dict[str, Any] = {
        "model": None,
        "init": {
            "config": {"uri": "base/config.json"},
            "overrides": {"num_hidden_layers": 3, "tie_word_embeddings": True},
        },
        "tokenizer": {"uri": "vocab"},
    }
    ended = done(study.run(job(**scratch, training={"learningRate": 3e-3})))
    model, tokenizer = published(study)
    assert model.config.num_hidden_layers == 3
    assert model.config.vocab_size == len(tokenizer)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert ended.losses[1] == pytest.approx(math.log(960), rel=0.1), "fresh weights know nothing"
    done(study.run(job(**scratch, training={"learningRate": 3e-3}, output={"uri": "again"})))
    first, again = weights(study.folder / "out"), weights(study.folder / "again")
    assert all((first[name] == again[name]).all() for name in first), "the seed decides"


def test_the_losses_are_those_of_the_plain_trainer_on_the_same_blocks(study: Place) -> None:
    import torch
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, default_data_collator

    from workloads.data.token_blocks import Blocks

    ended = done(
        study.run(
            job(dataset={"validationSplit": 0}, training={"maxSteps": 8, "scheduler": "constant", "warmupRatio": 0})
        )
    )
    (file,) = (study.folder / "cache" / "tokens").glob("*/tokens.bin")
    import numpy as np

    corpus = Blocks(np.fromfile(file, dtype="<u2"), 128)
    whole = [{key: corpus[at][key] for key in ("input_ids", "labels")} for at in range(len(corpus) - 1)]
    last = corpus[len(corpus) - 1]
    short = 128 - len(last["input_ids"])
    rows = [
        *whole,
        {
            "input_ids": np.pad(last["input_ids"], (0, short)),
            "labels": np.pad(last["labels"], (0, short), constant_values=-100),
        },
    ]
    losses: list[float] = []

    class Plain(Trainer):
        def log(self, logs: dict[str, float], *args: Any) -> None:
            losses.extend([logs["loss"]] if "loss" in logs else [])

    torch.manual_seed(42)
    plain = Plain(
        model=AutoModelForCausalLM.from_pretrained(study.folder / "base"),
        args=TrainingArguments(
            output_dir=str(study.folder / "plain"),
            max_steps=8,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            learning_rate=1e-2,
            lr_scheduler_type="constant",
            logging_steps=1,
            seed=42,
            data_seed=42,
            use_cpu=True,
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            optim="adamw_torch",
            accelerator_config={"use_seedable_sampler": True},
        ),
        data_collator=default_data_collator,
        train_dataset=rows,  # type: ignore[arg-type]
    )
    plain.train()
    assert list(ended.losses.values()) == pytest.approx(losses, abs=CLOSE)


def test_bits_per_byte_are_what_the_validation_text_takes(study: Place) -> None:
    (study.folder / "own.txt").write_text(VERSE, encoding="utf-8")
    ended = done(study.run(job(dataset={"validation": [{"uri": "own.txt"}]})))
    model, tokenizer = published(study)
    loss = loss_on(model, tokenizer, VERSE)
    nats = loss * (len(tokenizer(VERSE)["input_ids"]))  # BOS foretells the first token, EOS is foretold
    metrics = ended.termination["metrics"]
    # One byte more: the space that sentencepiece puts before a text is taken back by the BOS before it, which is no target here.
    assert metrics["bitsPerByte"] == pytest.approx(nats / math.log(2) / (len(VERSE.encode()) + 1), rel=1e-4)
    assert metrics["perplexity"] == pytest.approx(math.exp(loss), rel=1e-4)


def test_zero3_trains_the_embeddings_of_a_grown_vocabulary_alike(study: Place) -> None:
    spec: dict[str, Any] = {
        "tokenizer": {"uri": "vocab"},
        "trainable": "Embeddings",
        "training": {"maxSteps": 5},
        "dataset": {"validationSplit": 0},
    }
    plain = done(study.run(job(**spec, output={"uri": "plain"})))
    zero = done(study.run(job(**spec, deepspeed={"preset": "Zero3"})))
    assert list(zero.losses.values()) == pytest.approx(list(plain.losses.values()), abs=1e-4)
    expected, found = weights(study.folder / "plain"), weights(study.folder / "out")
    assert {name: value.shape for name, value in found.items()} == {
        name: value.shape for name, value in expected.items()
    }
    assert all((found[name] - expected[name]).abs().max() < 1e-3 for name in expected)


# Resume

CASES: dict[str, dict[str, Any]] = {
    "embeddings of a grown vocabulary, over two epochs": {
        "tokenizer": {"uri": "vocab"},
        "trainable": "Embeddings",
        "training": {"epochs": 2, "saveSteps": 3},
    },
    "an adapter with dropout and saved embeddings": {
        "tokenizer": {"uri": "vocab"},
        "trainable": "LoRA",
        "lora": {"rank": 4, "dropout": 0.2},
        "training": {"epochs": 2, "saveSteps": 2, "evalSteps": 4},
    },
    "from scratch, losses logged every second step": {
        "model": None,
        "init": {"config": {"uri": "base"}},
        "tokenizer": {"uri": "base"},
        "training": {"epochs": 2, "saveSteps": 4, "logSteps": 2},
    },
    "a stream, shuffled in a buffer": {
        "dataset": {"streaming": True},
        "training": {"maxSteps": 30, "saveSteps": 5, "evalSteps": 7},
    },
}


@pytest.mark.parametrize("case", CASES)
def test_a_killed_run_goes_on_as_if_nothing_had_happened(case: str, study: Place) -> None:
    spec = CASES[case]
    whole = done(study.run(job(**spec, output={"uri": "whole"})))
    last = max(line["step"] for line in whole.lines if "step" in line)
    seed = random.SystemRandom().randrange(1 << 30)
    print(f"\n{case}: seed {seed}")
    draw = random.Random(seed)
    losses: dict[int, set[float]] = {}
    evaluations: dict[int, set[float]] = {}
    endings = []
    for attempt in range(10):
        killer = _killer(draw, last) if attempt < 4 else lambda line: None
        ended = study.run(job(**spec, output={"uri": "broken"}), at=killer)
        for step, loss in ended.losses.items():
            losses.setdefault(step, set()).add(loss)
        for step, loss in ended.evaluations.items():
            evaluations.setdefault(step, set()).add(loss)
        endings.append(ended.exit_code)
        assert ended.exit_code in (0, 75, -signal.SIGKILL), ended.text
        if ended.exit_code == 0:
            break
    print(f"ended {endings} over {last} steps")
    assert losses == {step: {loss} for step, loss in whole.losses.items()}
    assert evaluations == {step: {loss} for step, loss in whole.evaluations.items()}
    first, again = weights(study.folder / "whole"), weights(study.folder / "broken")
    assert all((first[name] == again[name]).all() for name in first)


def _killer(draw: random.Random, last: int) -> Any:
    """Kills or stops the run at some step."""
    number = draw.choice([signal.SIGTERM, signal.SIGKILL])
    step = draw.randint(1, last)
    done = False

    def at(line: Line) -> int | None:
        nonlocal done
        if done or line.get("step", 0) < step:
            return None
        done = True
        return number

    return at


def test_the_same_job_again_is_reused_and_another_block_size_reads_the_same_tokens(study: Place) -> None:
    done(study.run(job()))
    assert done(study.run(job())).termination["output"]["reused"] is True
    other = done(study.run(job(training={"blockSize": 64}, output={"uri": "other"})))
    assert any(message.startswith("data: found train tokenised in ") for message in other.messages)


# Refusals

REFUSED: dict[str, tuple[dict[str, Any], int, str]] = {
    "new rows that an adapter would not hold": (
        {"tokenizer": {"uri": "vocab"}, "trainable": "LoRA", "lora": {"modulesToSave": ["embed_tokens"]}},
        64,
        "SpecError: lora.modulesToSave is embed_tokens, and tokenizer vocab needs new rows of embed_tokens and lm_head, which an adapter "
        "holds only when they are saved with it: name both in lora.modulesToSave",
    ),
    "a block longer than the positions": (
        {"training": {"blockSize": 1024}},
        64,
        "SpecError: training.blockSize 1024 is beyond the 512 positions of the model: lower it to 512, or set model.ropeScaling.factor "
        "to 2 or more",
    ),
    "a block longer than the positions, from scratch": (
        {
            "model": None,
            "init": {"config": {"uri": "base"}},
            "tokenizer": {"uri": "vocab"},
            "training": {"blockSize": 1024},
        },
        64,
        "SpecError: training.blockSize 1024 is beyond the 512 positions of the model: lower it to 512, or set "
        "init.overrides.max_position_embeddings to 1024",
    ),
    "an override that the model does not know": (
        {
            "model": None,
            "init": {"config": {"uri": "base"}, "overrides": {"hiden_size": 8}},
            "tokenizer": {"uri": "vocab"},
        },
        64,
        "SpecError: init.overrides names hiden_size, and a llama model has no such value: did you mean hidden_size?",
    ),
    "an override of what the tokenizer decides": (
        {
            "model": None,
            "init": {"config": {"uri": "base"}, "overrides": {"vocab_size": 8}},
            "tokenizer": {"uri": "vocab"},
        },
        64,
        "SpecError: init.overrides names vocab_size, which follows the tokenizer: remove it",
    ),
    "a row without the column": (
        {"dataset": {"train": [{"uri": "rows.jsonl", "columns": {"text": "内容"}}]}},
        65,
        "DataError: rows.jsonl, row 1: no '内容'; it has 'text': set dataset.train[].columns.text to one of them",
    ),
    "a tokenizer that lies nowhere": (
        {"tokenizer": {"uri": "vocabulary"}},
        66,
        "InputError: spec.tokenizer.uri: vocabulary: vocabulary does not exist: . holds ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_honoured_is_refused_in_one_line(case: str, study: Place) -> None:
    spec, code, message = REFUSED[case]
    ended = study.run(job(**spec))
    assert ended.exit_code == code, ended.text
    told = ended.termination["message"].replace(f"{study.folder}/", "").replace(str(study.folder), ".")
    assert told.startswith(message.partition(": ")[2])
    assert not (study.folder / "out").exists()


def test_a_stop_while_the_start_is_evaluated_ends_the_run_at_once(study: Place) -> None:
    def at(line: Line) -> int | None:
        return signal.SIGTERM if line.get("stage") == "Evaluating" else None

    whole = done(study.run(job(output={"uri": "whole"})))
    ended = study.run(job(), at=at)
    assert ended.exit_code == 75
    assert done(study.run(job())).losses == whole.losses


def test_a_stop_while_text_becomes_tokens_ends_the_run_at_once(study: Place) -> None:
    def at(line: Line) -> int | None:
        return signal.SIGTERM if line.get("stage") == "Preparing" else None

    ended = study.run(job(), at=at)
    assert ended.exit_code == 75, ended.text
    assert ended.termination["message"] == "stopped before the first step: run again to start"
    assert not list((study.folder / "cache" / "tokens").glob("*/tokens.bin"))
