"""A QuantizeJob with ``format: GGUF``: the file is read by `gguf`'s reader, by transformers and by llama.cpp, none of which wrote it."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workloads import library, literature, tiny
from tests.workloads.quantized import Ended, done, job, run

SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
EVALUATION = {"answers": 2, "maxNewTokens": 8}


def gguf_job(**spec: Any) -> dict[str, Any]:
    given = {"format": "GGUF", "gguf": {"type": "BF16"}, "evaluation": EVALUATION, **spec}
    made = job(**given)
    del made["spec"]["groupSize"]
    return made


def write_model(folder: Path, tokenizer_folder: Path, kind: str = "llama", rows: int = 0, **config: Any) -> Path:
    """A random model of this type with this tokenizer, and ``rows`` rows more than it has tokens."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    from workloads.data import tokenizer_io

    tokenizer = tokenizer_io.load_tokenizer(tokenizer_folder)
    torch.manual_seed(1)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    settings = AutoConfig.for_model(kind, vocab_size=len(tokenizer) + rows, **{**SHAPE, **ids, **config})
    model = AutoModelForCausalLM.from_config(settings).to(torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and norms are 0 and 1 else, which hides where they land
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    tokenizer_io.save_tokenizer(tokenizer, tokenizer_folder, folder)
    return folder


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Llama's tokenizer, trained on English, with Chinese pieces behind its own, as TokenizerJob makes it."""
    folder = tmp_path_factory.mktemp("extended")
    (folder / "base").mkdir()
    library.train_pieces(folder / "base" / "tokenizer", literature.english(1500, 3), 500)
    return library.write_vocabulary(folder / "base", folder / "extended")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, extended: Path) -> Path:
    """A folder with a model of an extended vocabulary, and what a job made of it."""
    folder = tmp_path_factory.mktemp("gguf")
    write_model(folder / "tuned", extended, rows=5)
    pairs = zip(literature.english(60, 9), literature.chinese(60, 9), strict=True)
    rows = [{"instruction": question[:200], "input": "", "output": answer[:100]} for question, answer in pairs]
    (folder / "rows.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    done(run(folder, gguf_job()))
    return folder


def report(folder: Path, name: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / name / "report.json").read_text(encoding="utf-8"))
    return found


def fields(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Metadata and tensors by name, as `gguf`'s own reader finds them."""
    from gguf import GGUFReader

    reader = GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}, {
        tensor.name: tensor for tensor in reader.tensors
    }


def by_transformers(folder: Path) -> Any:
    """The model that transformers makes of the file by its own reader."""
    import torch
    from transformers import AutoModelForCausalLM

    from workloads.models import libraries

    with libraries.silenced():
        return AutoModelForCausalLM.from_pretrained(folder, gguf_file="model.gguf", dtype=torch.float32)


def original(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from workloads.models import libraries

    with libraries.silenced():
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def test_the_output_is_a_file_with_its_report_and_a_modelfile(place: Path) -> None:
    assert sorted(path.name for path in (place / "out").iterdir()) == [
        "Modelfile",
        "README.md",
        "artifact.json",
        "generation_config.json",
        "model.gguf",
        "report.html",
        "report.json",
        "report.md",
    ]
    artifact = json.loads((place / "out" / "artifact.json").read_text(encoding="utf-8"))
    assert artifact["kind"] == "GGUFModel"
    assert {"gguf", "cyllama"} <= artifact["versions"].keys()
    assert [path.name for path in place.glob("out.*")] == [], "nothing is left beside it"


def test_transformers_reads_the_same_weights_out_of_it(place: Path) -> None:
    made, before = by_transformers(place / "out").state_dict(), original(place / "tuned").state_dict()
    assert made.keys() == before.keys()
    for name, values in before.items():
        assert (made[name] == values).all(), name


def test_llama_cpp_has_every_token_of_an_extended_vocabulary(place: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "tuned")
    metadata, _ = fields(place / "out" / "model.gguf")
    tokens = metadata["tokenizer.ggml.tokens"]
    assert tokens[: len(tokenizer)] == tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    assert tokens[len(tokenizer) :] == [f"[PAD{len(tokenizer) + number}]" for number in range(5)]
    assert any("喜" in token or "的" in token for token in tokens)
    assert (metadata["tokenizer.ggml.bos_token_id"], metadata["tokenizer.ggml.eos_token_id"]) == (1, 2)
    assert metadata["tokenizer.ggml.add_bos_token"] is True
    assert "Human" in metadata["tokenizer.chat_template"]
    assert report(place)["tokens"] == {"texts": 60, "equal": 60, "firstDifference": None}
    artifact = json.loads((place / "out" / "artifact.json").read_text(encoding="utf-8"))
    assert artifact["digest"] != f"sha256:{hashlib.sha256().hexdigest()}", "the file is the content"


def runner_logits(path: Path, ids: list[int]) -> Any:
    """What a llama.cpp of its own says after each of the ids."""
    from cyllama.llama import llama_cpp

    llama_cpp.disable_logging()

    class Model(llama_cpp.LlamaModel):  # type: ignore[misc]
        n_vocab = property(lambda self: self.get_vocab().n_vocab)

    model = Model(str(path), llama_cpp.LlamaModelParams(), verbose=False)
    context = llama_cpp.LlamaContext(model, llama_cpp.LlamaContextParams(), verbose=False)
    batch = llama_cpp.LlamaBatch(n_tokens=len(ids), embd=0, n_seq_max=1, verbose=False)
    for place, number in enumerate(ids):
        batch.add(number, place, [0], True)
    context.decode(batch)
    return np.array([context.get_logits_ith(place) for place in range(len(ids))])


SHAPES = {
    "llama": ("llama", {}),
    "a head that is the embedding": ("llama", {"tie_word_embeddings": True}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "wide heads": ("llama", {"head_dim": 32}),
    "llama 3's positions": ("llama", {"rope_parameters": LLAMA3_ROPE}),
    "linear positions": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {"head_dim": 32}),
}


@pytest.mark.parametrize("name", SHAPES)
def test_llama_cpp_computes_what_transformers_does(name: str, extended: Path, tmp_path: Path) -> None:
    import torch

    kind, config = SHAPES[name]
    write_model(tmp_path / "tuned", extended, kind, **config)
    tiny.write_rows(tmp_path / "rows.json", 20)
    done(run(tmp_path, gguf_job(evaluation={"answers": 0})))
    model = original(tmp_path / "tuned")
    ids = np.random.default_rng(0).integers(3, model.config.vocab_size, 200).tolist()
    with torch.no_grad():
        before = model(torch.tensor([ids])).logits[0].numpy()
    after = runner_logits(tmp_path / "out" / "model.gguf", ids)
    assert np.abs(after - before).max() < 0.03 * np.abs(before).max()
    assert report(tmp_path)["metrics"]["tokenAgreement"] > 0.97
    assert report(tmp_path)["metrics"]["meanDivergence"] < 1e-3


def test_a_byte_level_tokenizer_is_cut_alike(byte_level_folder: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "tuned", byte_level_folder)
    tiny.write_rows(tmp_path / "rows.json", 60)
    done(run(tmp_path, gguf_job(template="ChatML")))
    assert report(tmp_path)["tokens"] == {"texts": 60, "equal": 60, "firstDifference": None}
    metadata, _ = fields(tmp_path / "out" / "model.gguf")
    assert metadata["tokenizer.ggml.pre"] == "llama-bpe"
    ends = {metadata["tokenizer.ggml.eos_token_id"], metadata["tokenizer.ggml.eot_token_id"]}
    assert metadata["tokenizer.ggml.tokens"].index("<|im_end|>") in ends


ROWS_THAT_COULD_DIFFER = {
    "a leading space": " poem",
    "leading spaces": "   poem",
    "spaces within": "one  two   three    four",
    "spaces at the end": "the end   ",
    "spaces alone": "     ",
    "lines": "first\nsecond\n\n third\r\n\tfourth",
    "a tab": "\tindented",
    "control words": "before <s>within</s> after</s> <s> again <unk> end",
    "words that are nearly control words": "< s> </ s> <S> <0x41> <|im_end|>",
    "the sign of a space": "a▁b ▁ ▁▁c",
    "emoji": "👍🏽 and 👨\u200d👩\u200d👧 or 🇨🇳🙂",
    "characters of bytes alone": "龘𠮷 ☃ ﷺ é e\u0301",
    "full-width": "ＡＢＣ　１２３，。！（全角）",
    "Chinese and English": "床前明月光 moonlight，疑是地上霜 frost",
    "punctuation": "...!!!??? --- \u2014\u2014 \u2026\u2026",
    "no width": "a\u200bb\ufeffc\u00a0d",
    "digits": "1234567890 3.14159 007",
    "a NUL's neighbours": "\x01\x7f",
}
"""What two readings of one tokenizer are likely to cut in two ways."""


@pytest.fixture(scope="module")
def llama2_alike(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    """A tokenizer made as Llama-2's own is, of sentencepiece's pieces with bytes behind, and llama.cpp's reading of it."""
    from transformers import AutoTokenizer

    from workloads.quantization.gguf.llama_cpp import Runner

    folder = tmp_path_factory.mktemp("llama2")
    write_model(folder / "tuned", library.write_base(folder / "base"))
    tiny.write_rows(folder / "rows.json", 20)
    done(run(folder, gguf_job(gguf={"type": "F16"}, evaluation={"answers": 0})))
    return AutoTokenizer.from_pretrained(folder / "tuned"), Runner(folder / "out" / "model.gguf", 512)


@pytest.mark.parametrize("name", ROWS_THAT_COULD_DIFFER)
def test_pieces_as_llama_2_has_them_are_cut_alike(name: str, llama2_alike: tuple[Any, Any]) -> None:
    tokenizer, runner = llama2_alike
    for text in (ROWS_THAT_COULD_DIFFER[name], f"<s>Human: {ROWS_THAT_COULD_DIFFER[name]}\n</s><s>Assistant:"):
        assert runner.tokens(text) == tokenizer(text, add_special_tokens=False)["input_ids"], text


RUNS = (2, 4, 8, 5, 16, 6, 12, 13, 10, 14, 3, 9, 7, 11, 15)
"""Lengths of Llama-2's pieces of spaces alone, by their ids."""
CODE = [
    "def larger(a, b):\n    if a > b:\n        return a\n    return b",
    "for line in text:\n        if line:\n                print(line)\n    print(1)",
]


@pytest.fixture(scope="module")
def indenting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model whose tokenizer has what Llama-2's has for code: its pieces of spaces come first by their ids and, with the space
    itself, last by their score, which is one and the same. Of its rows two are code."""
    from sentencepiece import sentencepiece_model_pb2

    folder = tmp_path_factory.mktemp("indenting")
    (folder / "base").mkdir()
    trained = library.train_pieces(folder / "base" / "tokenizer", literature.english(1500, 3), 500)
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(trained.read_bytes())
    pieces = list(proto.pieces)
    for length in RUNS:
        pieces.insert(259 + RUNS.index(length), proto.SentencePiece(piece="▁" * length))
    for piece in pieces:
        if set(piece.piece) == {"▁"}:
            piece.score = -1e9
    del proto.pieces[:]
    proto.pieces.extend(pieces)
    trained.write_bytes(proto.SerializeToString())
    write_model(folder / "tuned", folder / "base")
    answers = [line[:100] for line in literature.english(20, 9)] + CODE
    rows = [{"instruction": "Write.", "input": "", "output": answer} for answer in answers]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return folder


def test_code_is_cut_as_sentencepiece_itself_cuts_it(indenting: Path) -> None:
    """llama.cpp joins what has the highest score: ranks of the merges, not what the ids suggest."""
    from sentencepiece import SentencePieceProcessor

    from workloads.quantization.gguf.llama_cpp import Runner

    done(run(indenting, gguf_job(gguf={"type": "F16"}, evaluation={"answers": 0})))
    assert report(indenting)["tokens"] == {"texts": 22, "equal": 22, "firstDifference": None}
    cuts = SentencePieceProcessor(model_file=str(indenting / "base" / "tokenizer.model"))
    runner = Runner(indenting / "out" / "model.gguf", 512)
    for text in (*CODE, *(f"{before}{' ' * length}end" for length in range(1, 40) for before in ("", "a", "\n"))):
        assert runner.tokens(text) == cuts.encode(text), repr(text)


def test_scores_by_the_order_of_ids_cut_code_otherwise_and_the_gate_tells(
    indenting: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scores of a plain conversion: a higher id is a later merge, but for the spaces."""
    from workloads.quantization.gguf import vocabulary

    monkeypatch.setattr(vocabulary, "_scores", lambda tokens, *_: [-float(number) for number in range(len(tokens))])
    for name in ("tuned", "rows.json"):
        (tmp_path / name).symlink_to(indenting / name)
    ended = run(tmp_path, gguf_job(gguf={"type": "F16"}, evaluation={"answers": 0}))
    assert ended.termination["reason"] == "GateFailed"
    assert "llama.cpp cuts 20 of 22 conversations into the same tokens" in ended.text
    told = json.loads((tmp_path / "out.rejected" / "report.json").read_text(encoding="utf-8"))["tokens"]
    assert (told["texts"], told["equal"]) == (22, 20)


@pytest.mark.parametrize(
    ("wanted", "types"),
    [
        pytest.param("F16", {"F16", "F32"}, id="16 bits"),
        pytest.param("Q8_0", {"Q8_0", "F32"}, id="8 bits"),
        pytest.param("Q6_K", {"Q6_K", "F32"}, id="6 bits"),
        pytest.param("Q5_K_M", {"Q5_K", "Q6_K", "F32"}, id="5 bits"),
        pytest.param("Q4_K_M", {"Q4_K", "Q6_K", "F32"}, id="4 bits"),
        pytest.param("Q3_K_M", {"Q3_K", "Q4_K", "Q5_K", "Q6_K", "F32"}, id="3 bits"),
        pytest.param("Q2_K", {"Q2_K", "Q3_K", "Q6_K", "F32"}, id="2 bits"),
    ],
)
def test_types(wanted: str, types: set[str], extended: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "tuned", extended, hidden_size=256, intermediate_size=512)
    tiny.write_rows(tmp_path / "rows.json", 20)
    done(run(tmp_path, gguf_job(gguf={"type": wanted})))
    _, tensors = fields(tmp_path / "out" / "model.gguf")
    assert {tensor.tensor_type.name for tensor in tensors.values()} == types
    made, before = by_transformers(tmp_path / "out").state_dict(), original(tmp_path / "tuned").state_dict()
    loss = {"F16": 1e-3, "Q8_0": 0.01, "Q6_K": 0.04, "Q5_K_M": 0.08, "Q4_K_M": 0.15, "Q3_K_M": 0.3, "Q2_K": 0.6}[wanted]
    for name, values in before.items():
        assert float((made[name] - values).norm() / values.norm()) < loss, name
    figures = report(tmp_path)["metrics"]
    assert figures["bytesAfter"] == (tmp_path / "out" / "model.gguf").stat().st_size


def test_the_modelfile_writes_what_the_template_writes(place: Path) -> None:
    lines = (place / "out" / "Modelfile").read_text(encoding="utf-8").splitlines()
    assert lines == [
        "# ollama create NAME -f Modelfile && ollama run NAME",
        "FROM ./model.gguf",
        'TEMPLATE """{{ if .System }}System: {{ .System }}',
        "</s><s>Human: {{ else }}Human: {{ end }}{{ .Prompt }}",
        '</s><s>Assistant:{{ .Response }}</s><s>"""',
        'PARAMETER stop "</s>"',
        'PARAMETER stop "Human:"',
        "PARAMETER num_ctx 512",
    ]


def refused(ended: Ended) -> str:
    assert ended.exit_code != 0
    return ended.text


def test_other_tokens_are_a_broken_gate(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written as of a tokenizer that begins no text with a space."""
    from workloads.quantization.gguf import vocabulary

    monkeypatch.setattr(vocabulary, "_prefixed", lambda state: False)
    for name in ("tuned", "rows.json"):
        (tmp_path / name).symlink_to(place / name)
    ended = run(tmp_path, gguf_job())
    assert ended.exit_code == 64
    assert ended.termination["reason"] == "GateFailed"
    assert "conversations into the same tokens, and gguf.minEqualRows 1 asks for 100.00%" in ended.text
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "out.rejected" / "report.json").is_file()


def test_a_tokenizer_without_bytes_is_refused(tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "tuned")
    tiny.write_rows(tmp_path / "rows.json", 20)
    assert "lacks 256 of the 256 bytes" in refused(run(tmp_path, gguf_job()))


def test_another_architecture_is_refused(place: Path, tmp_path: Path) -> None:
    shutil.copytree(place / "tuned", tmp_path / "tuned")
    shutil.copy(place / "rows.json", tmp_path)
    config = json.loads((tmp_path / "tuned" / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "tuned" / "config.json").write_text(json.dumps({**config, "model_type": "gemma"}), encoding="utf-8")
    assert "config.json says model_type gemma" in refused(run(tmp_path, gguf_job()))
