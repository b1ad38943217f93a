"""Tokenizers read from and written to folders keep their ids, whoever wrote them and whoever reads them next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tests.workloads.conftest import corpus
from workloads.data.chat_templates.loading import load
from workloads.data.tokenizer_io import load_tokenizer, save_tokenizer, sentencepiece_to_fast
from workloads.errors import InputError

TEXTS = [
    "<s>Human: 床前明月光？\n</s><s>Assistant: 疑是地上霜。\n</s>",
    "Human: Who wrote it?",
    "  two  spaces\tand a tab \n\n 😀 龘",
    "",
]


def ids(tokenizer: Any, texts: list[str] = TEXTS) -> list[list[int]]:
    return [tokenizer(text, add_special_tokens=False).input_ids for text in texts]


def folder_of(path: Path, source: Path, config: dict[str, Any] | None, *names: str) -> Path:
    path.mkdir()
    for name in names:
        shutil.copy(source / name, path / name)
    if config is not None:
        (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def test_a_sentencepiece_model_gives_sentencepieces_own_ids(sentencepiece_folder: Path, llama) -> None:
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    texts = [text for text in corpus()[:200] if "  " not in text]
    assert ids(llama, texts) == [pieces.encode(text) for text in texts]


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.one_of(st.sampled_from("明月光霜ab \n\t<>0xA▁"), st.characters(codec="utf-8")), max_size=40))
def test_any_text_gets_sentencepieces_own_ids(sentencepiece_folder: Path, llama, text: str) -> None:
    """Control tokens and NUL apart: as text, sentencepiece knows no control tokens, and it ends at NUL."""
    import sentencepiece

    pieces = sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_folder / "tokenizer.model"))
    if not any(mark in text for mark in ("<s>", "</s>", "<unk>", "\0")):
        assert ids(llama, [text]) == [pieces.encode(text)]


def test_text_after_a_control_token_has_the_dummy_prefix(llama) -> None:
    assert llama.convert_ids_to_tokens(ids(llama)[0])[:3] == ["<s>", "▁Human", ":"]


def test_without_legacy_only_the_start_has_it(not_legacy) -> None:
    tokens = not_legacy.convert_ids_to_tokens(ids(not_legacy)[0])
    assert tokens[0] == "<s>"
    assert not tokens[1].startswith("▁")
    assert not_legacy.convert_ids_to_tokens(ids(not_legacy)[1])[0].startswith("▁")


def test_special_tokens_are_known_by_the_model_itself(llama) -> None:
    assert (llama.bos_token_id, llama.eos_token_id, llama.unk_token_id) == (1, 2, 0)
    assert llama("明月").input_ids[0] == llama.bos_token_id


def test_a_text_is_given_back(llama) -> None:
    assert [llama.decode(found, skip_special_tokens=True) for found in ids(llama)[1:]] == TEXTS[1:]


def test_unigram_models_are_read_too(tmp_path: Path) -> None:
    import sentencepiece

    (tmp_path / "corpus.txt").write_text("\n".join(corpus()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus.txt"), model_prefix=str(tmp_path / "tokenizer"), model_type="unigram", vocab_size=1000,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, minloglevel=2,
    )  # fmt: skip
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    texts = corpus()[:200]
    found = ids(load_tokenizer(tmp_path), texts)
    assert sum(own != theirs for own, theirs in zip(found, (pieces.encode(text) for text in texts), strict=True)) == 0


# Folders as others write them


@pytest.fixture(scope="module")
def fast_folder(sentencepiece_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer.json and tokenizer.model, as published Llama models have them."""
    folder = tmp_path_factory.mktemp("fast")
    tokenizer, _ = sentencepiece_to_fast(sentencepiece_folder / "tokenizer.model")
    tokenizer.save(str(folder / "tokenizer.json"))
    shutil.copy(sentencepiece_folder / "tokenizer.model", folder)
    return folder


CONFIGS: list[Any] = [
    pytest.param({"tokenizer_class": "LlamaTokenizer", "legacy": False, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}, id="LlamaTokenizer, legacy off"),
    pytest.param({"tokenizer_class": "LlamaTokenizerFast", "bos_token": {"__type": "AddedToken", "content": "<s>"}, "eos_token": {"__type": "AddedToken", "content": "</s>"}}, id="special tokens as objects"),
    pytest.param({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>", "pad_token": None, "sp_model_kwargs": {}}, id="as Llama-2 was published"),
    pytest.param(None, id="no config"),
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIGS)
def test_tokenizer_json_is_read_as_it_is(
    fast_folder: Path, tmp_path: Path, llama, config: dict[str, Any] | None
) -> None:
    folder = folder_of(tmp_path / "model", fast_folder, config, "tokenizer.json", "tokenizer.model")
    tokenizer = load_tokenizer(folder)
    assert ids(tokenizer) == ids(llama)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")


def test_half_a_tokenizer_model_beside_a_whole_tokenizer_json_is_refused(fast_folder: Path, tmp_path: Path) -> None:
    """It would be copied into every output."""
    shutil.copy(fast_folder / "tokenizer.json", tmp_path)
    half = (fast_folder / "tokenizer.model").read_bytes()[:1001]
    (tmp_path / "tokenizer.model").write_bytes(half)
    with pytest.raises(InputError) as refusal:
        load_tokenizer(tmp_path)
    assert str(refusal.value) == f"model.uri: {tmp_path / 'tokenizer.model'} is damaged (1001 bytes): copy it again"
    (tmp_path / "tokenizer.model").write_text("IQ== 0\nIg== 1\n")  # another kind, which nothing here reads
    load_tokenizer(tmp_path)


def test_special_tokens_without_a_config_are_those_of_the_model(byte_level_folder: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", byte_level_folder, None, "tokenizer.json")
    assert load_tokenizer(folder).eos_token == "<|end_of_text|>"
    end = load_tokenizer(folder).convert_tokens_to_ids("<|eot_id|>")
    (folder / "config.json").write_text(json.dumps({"eos_token_id": [end, 5]}))
    assert load_tokenizer(folder).eos_token == "<|eot_id|>"


def test_added_tokens_of_a_bare_model_get_their_ids(sentencepiece_folder: Path, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "model", sentencepiece_folder, {"pad_token": "<pad>"}, "tokenizer.model")
    (folder / "added_tokens.json").write_text(json.dumps({"<pad>": 1200}))
    tokenizer = load_tokenizer(folder)
    assert (tokenizer.pad_token, tokenizer.pad_token_id, len(tokenizer)) == ("<pad>", 1200, 1201)


REFUSED: dict[str, tuple[dict[str, str], str]] = {
    "nothing there": ({"config.json": "{}"}, "model.uri: no tokenizer in {folder}: it needs tokenizer.json or tokenizer.model; found config.json"),
    "a broken config": (
        {"tokenizer.json": "{}", "tokenizer_config.json": "{"},
        "model.uri: {folder}/tokenizer_config.json is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)): "
        "copy the model again",
    ),
    "another kind of tokenizer.model": (
        {"tokenizer.model": "IQ== 0\nIg== 1\n"},
        "model.uri: {folder}/tokenizer.model is not a sentencepiece model: "
        "convert it to tokenizer.json with transformers first",
    ),
    "a broken tokenizer.json": (
        {"tokenizer.json": "{}"},
        "model.uri: {folder}/tokenizer.json cannot be read (KeyError: 'added_tokens'): copy the model again",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("files", "message"), [pytest.param(*case, id=name) for name, case in REFUSED.items()])
def test_a_folder_without_a_readable_tokenizer_is_refused(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError) as refusal:
        load_tokenizer(tmp_path)
    assert str(refusal.value) == message.replace("{folder}", str(tmp_path))


# Padding


@pytest.mark.parametrize(("pad", "chosen"), [
    pytest.param({}, "<|reserved_special_token_0|>", id="none given"),
    pytest.param({"pad_token": "<|end_of_text|>"}, "<|reserved_special_token_0|>", id="EOS given"),
    pytest.param({"pad_token": "<|im_end|>"}, "<|im_end|>", id="another given"),
])  # fmt: skip
def test_padding_is_never_eos(byte_level_folder: Path, tmp_path: Path, pad: dict[str, str], chosen: str) -> None:
    config = json.loads((byte_level_folder / "tokenizer_config.json").read_text()) | pad
    tokenizer = load_tokenizer(folder_of(tmp_path / "model", byte_level_folder, config, "tokenizer.json"))
    assert (tokenizer.pad_token, tokenizer.padding_side) == (chosen, "right")


def test_llama_pads_with_unk(llama) -> None:
    assert llama.pad_token == "<unk>"


# Writing


@pytest.mark.parametrize(
    ("source", "named"), [("sentencepiece_folder", "HumanAssistant"), ("byte_level_folder", "Llama3")]
)
def test_what_is_written_is_read_alike_by_us_and_by_transformers(
    request: pytest.FixtureRequest, tmp_path: Path, source: str, named: str
) -> None:
    folder = request.getfixturevalue(source)
    tokenizer = load_tokenizer(folder)
    template = load(named, None, tokenizer)
    save_tokenizer(tokenizer, folder, tmp_path / "out", template)
    messages = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
    for again in (load_tokenizer(tmp_path / "out"), AutoTokenizer.from_pretrained(tmp_path / "out")):
        assert ids(again) == ids(tokenizer)
        assert (again.pad_token, again.eos_token, again.bos_token) == (
            tokenizer.pad_token,
            tokenizer.eos_token,
            tokenizer.bos_token,
        )
        assert again.apply_chat_template(messages, tokenize=False) == template.render(messages)
        assert again("问").input_ids == tokenizer("问").input_ids


def test_the_artifact_says_its_class_and_legacy_and_keeps_the_model(
    sentencepiece_folder: Path, tmp_path: Path, llama
) -> None:
    save_tokenizer(llama, sentencepiece_folder, tmp_path, load("HumanAssistant", None, llama))
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["legacy"] is True
    assert "generation %}" not in config["chat_template"]
    assert config["chat_template"] == (tmp_path / "chat_template.jinja").read_text()
    assert (tmp_path / "tokenizer.model").read_bytes() == (sentencepiece_folder / "tokenizer.model").read_bytes()
    assert str(sentencepiece_folder) not in (tmp_path / "tokenizer_config.json").read_text()


def test_merges_are_written_for_every_version_of_tokenizers(
    byte_level_folder: Path, tmp_path: Path, byte_level
) -> None:
    save_tokenizer(byte_level, byte_level_folder, tmp_path, load("Llama3", None, byte_level))
    merges = json.loads((tmp_path / "tokenizer.json").read_text())["model"]["merges"]
    assert merges
    assert all(isinstance(merge, str) for merge in merges)


def test_a_template_of_the_model_survives(llama, sentencepiece_folder: Path, tmp_path: Path) -> None:
    own = "{% for m in messages %}{{ m.content }}{% generation %}{{ eos_token }}{% endgeneration %}{% endfor %}"
    folder = folder_of(tmp_path / "model", sentencepiece_folder, {}, "tokenizer.model")
    (folder / "chat_template.jinja").write_text(own)
    assert load_tokenizer(folder).chat_template == own
