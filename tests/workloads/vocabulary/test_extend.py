"""A base and new pieces become one vocabulary: what stays, what is taken, and that every reader gives the same ids."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.workloads.literature import chinese, english
from workloads.errors import DataError, InputError, SpecError
from workloads.vocabulary import checks, extend
from workloads.vocabulary.checks import Encoder
from workloads.vocabulary.extend import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Base, load_base, merge, save


def trained(lines: list[str], size: int, **options: Any) -> Any:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        **{
            "model_type": "bpe",
            "character_coverage": 1.0,
            "byte_fallback": True,
            "normalization_rule_name": "identity",
            "remove_extra_whitespaces": False,
            "split_digits": True,
            "allow_whitespace_only_pieces": True,
            "hard_vocab_limit": False,
            "minloglevel": 2,
            **options,
        },
    )
    return extend.parse(model.getvalue())


def model(pieces: str | Sequence[str], **trainer: Any) -> Any:
    """A BPE model with bytes and ``pieces``, scored 0, -1, -2, …"""
    proto = sentencepiece_model_pb2.ModelProto()
    for name, kind in (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)):
        proto.pieces.add(piece=name, type=kind)
    for byte in range(256):
        proto.pieces.add(piece=f"<0x{byte:02X}>", type=BYTE)
    for rank, piece in enumerate(pieces.split() if isinstance(pieces, str) else pieces):
        proto.pieces.add(piece=piece, score=-rank, type=NORMAL)
    settings = {"model_type": extend.BPE, "byte_fallback": True, "vocab_size": len(proto.pieces), **trainer}
    proto.trainer_spec.MergeFrom(sentencepiece_model_pb2.TrainerSpec(**settings))
    proto.normalizer_spec.MergeFrom(
        sentencepiece_model_pb2.NormalizerSpec(name="identity", add_dummy_prefix=True, remove_extra_whitespaces=False)
    )
    return proto


LETTERS = "a b c d e ▁"
FILLERS = [chr(0x5000 + number) for number in range(64 * 4)]
"""Characters that bring small vocabularies to a multiple of 64."""


PAIRS = [FILLERS[0] + filler for filler in FILLERS[1:65]]


def grown(pieces: Sequence[str]) -> extend.Merged:
    """What becomes of ``pieces``, followed by enough others that none of them is lost to rounding."""
    return merge(Base(model(LETTERS)), model([*pieces, *FILLERS[:65], *PAIRS]), 1024)


@pytest.fixture(scope="module")
def base() -> Any:
    return trained(english(4000), 640)


@pytest.fixture(scope="module")
def merged_folder(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English base grown by Chinese text, as it is published."""
    folder = tmp_path_factory.mktemp("merged")
    new = trained([*chinese(4000), *english(200, seed=9)], 900, add_dummy_prefix=False)
    save(merge(Base(base), new, 65536), Base(base), folder)
    return folder


@pytest.fixture(scope="module")
def pieces(merged_folder: Path) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_file=str(merged_folder / "tokenizer.model"))


@pytest.fixture(scope="module")
def fast(merged_folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(merged_folder / "tokenizer.json"))


LINES = [
    *chinese(2000, seed=1),
    *english(500, seed=1),
    *(f"{left} {right}  {left}" for left, right in zip(chinese(200, seed=2), english(200, seed=2), strict=True)),
    *checks.ENGLISH,
    "哈哈哈哈哈哈哈", "。。。。。。", "——……——", "龘靐 😀👩‍👩‍👧‍👦 ㍿ \u3000\u3000全角　空格", "\t制表\t", "", " ", "  ", "一\n二\r\n三", "\0零", "a\u0301é",
]  # fmt: skip


def test_sentencepiece_and_tokenizers_give_the_same_ids(pieces: Any, fast: Any) -> None:
    differing = [line for line in LINES if pieces.encode(line) != fast.encode(line, add_special_tokens=False).ids]
    assert differing == []


def test_transformers_gives_the_same_ids(pieces: Any, merged_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(merged_folder)
    differing = [line for line in LINES if pieces.encode(line) != tokenizer(line, add_special_tokens=False).input_ids]
    assert differing == []


def test_text_after_a_control_token_has_the_dummy_prefix_as_in_llama(merged_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(merged_folder)
    ids = tokenizer("<s>the river\n</s>", add_special_tokens=False).input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["<s>", "▁the", "▁river", "<0x0A>", "</s>"]


def test_merges_lie_in_the_order_of_rank_for_every_version_of_tokenizers(merged_folder: Path, pieces: Any) -> None:
    merges = json.loads((merged_folder / "tokenizer.json").read_text())["model"]["merges"]
    assert all(isinstance(merge, str) and merge.count(" ") == 1 for merge in merges)
    scores = [pieces.get_score(pieces.piece_to_id(merge.replace(" ", ""))) for merge in merges]
    assert scores == sorted(scores, reverse=True)


def test_a_plain_text_gets_bos_where_special_tokens_are_asked_for(merged_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(merged_folder)
    assert tokenizer("明月").input_ids[0] == tokenizer.bos_token_id == 1
    assert tokenizer("明月").input_ids[1:] == tokenizer("明月", add_special_tokens=False).input_ids


def test_the_vocabulary_pads_with_a_token_that_is_not_eos(merged_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(merged_folder)
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<unk>", "</s>")


def test_every_row_is_a_token_that_can_be_written(merged_folder: Path, pieces: Any) -> None:
    assert len(AutoTokenizer.from_pretrained(merged_folder)) == pieces.get_piece_size()
    assert pieces.get_piece_size() % 64 == 0


def test_the_base_is_untouched(base: Any, merged_folder: Path) -> None:
    result = load_base(merged_folder).proto
    assert list(result.pieces[: len(base.pieces)]) == list(base.pieces)
    assert result.normalizer_spec == base.normalizer_spec
    base_trainer = type(base.trainer_spec)()
    base_trainer.CopyFrom(base.trainer_spec)
    base_trainer.vocab_size = len(result.pieces)
    assert result.trainer_spec == base_trainer


def test_scores_descend_from_the_bases_lowest(base: Any, merged_folder: Path) -> None:
    result = load_base(merged_folder).proto
    lowest = min(piece.score for piece in base.pieces)
    assert [piece.score for piece in result.pieces[len(base.pieces) :]] == [
        lowest - rank for rank in range(1, len(result.pieces) - len(base.pieces) + 1)
    ]


def test_a_score_that_float32_cannot_count_from_is_not_the_lowest() -> None:
    base = model(LETTERS + " ▁▁")
    base.pieces[-1].score = -1e9  # as Llama-2 scores runs of spaces
    result = merge(Base(base), model(FILLERS), 1024)
    added = result.proto.pieces[len(base.pieces) :]
    assert [piece.score for piece in added[:3]] == [-6, -7, -8]


def test_english_is_cut_as_before(base: Any, pieces: Any) -> None:
    before = sentencepiece.SentencePieceProcessor(model_proto=base.SerializeToString())
    lines = [*english(2000, seed=3), *checks.latin_lines(base)]
    assert checks.agreement(Encoder("base", before.encode), Encoder("ours", pieces.encode), lines).differing == ()


def test_chinese_takes_fewer_tokens(base: Any, pieces: Any) -> None:
    before = sentencepiece.SentencePieceProcessor(model_proto=base.SerializeToString())
    lines = chinese(500, seed=4)
    gain = [checks.characters_per_token(Encoder("", it.encode), lines) for it in (before, pieces)]
    assert gain[0] < 0.4  # three bytes a character
    assert gain[1] > 1.2


def test_a_tokenizer_to_compare_with_is_read_from_whichever_file_it_has(merged_folder: Path, tmp_path: Path) -> None:
    shutil.copy(merged_folder / "tokenizer.json", tmp_path)
    lines = chinese(100, seed=7)
    rates = {
        checks.characters_per_token(checks.encoder("x", path, "spec.compareWith[0].uri"), lines)
        for path in (merged_folder, merged_folder / "tokenizer.model", tmp_path, tmp_path / "tokenizer.json")
    }
    assert len(rates) == 1


def test_a_damaged_tokenizer_to_compare_with_is_named(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(InputError) as error:
        checks.encoder("x", tmp_path, "spec.compareWith[0].uri")
    assert str(error.value).startswith(f"spec.compareWith[0].uri: {tmp_path} cannot be read as a tokenizer: ")


def test_all_of_unicode_comes_back(pieces: Any, fast: Any) -> None:
    everything = 0x110000 - 0x800 - 1  # without surrogates and the mark that stands for a space
    for trip in (
        checks.round_trip(pieces.encode, pieces.decode),
        checks.round_trip(
            lambda text: fast.encode(text, add_special_tokens=False).ids,
            lambda ids: fast.decode(ids, skip_special_tokens=False),
        ),
    ):
        assert (trip.characters, trip.lost) == (everything, ())


def test_a_reader_that_loses_characters_is_found_out() -> None:
    trip = checks.round_trip(
        lambda text: [ord(character) for character in text if character not in "龘\U0001f600"],
        lambda ids: "".join(map(chr, ids)),
    )
    assert trip.lost == (ord("龘"), 0x1F600)


@settings(max_examples=300, deadline=None)
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(str.encode)))
def test_any_bytes_come_back(pieces: Any, fast: Any, data: bytes) -> None:
    for text in (data.decode("utf-8", "replace"), data.decode("latin-1")):
        text = text.replace("▁", " ")
        # Hugging Face's reader takes the name of a control token for the token, as it should.
        if not any(token in text for token in ("<s>", "</s>", "<unk>")):
            assert pieces.decode(pieces.encode(text)) == text
            ids = fast.encode(text, add_special_tokens=False).ids
            assert ids == pieces.encode(text)
            assert fast.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("pieces", "added", "left_out"),
    [
        pytest.param("春 天 春天", "春 天 春天", {}, id="characters and longer pieces are taken"),
        pytest.param("春天 天 春", "天 春 春天", {}, id="characters come first, wherever training scored them"),
        pytest.param("a 春 天", "春 天", {"inBase": 1}, id="what the base has keeps its id"),
        pytest.param("春 ▁春", "春", {"spaceBeforeChinese": 1}, id="a space before Chinese is left out"),
        pytest.param("。 ▁。 ▁（", "。", {"spaceBeforeChinese": 2}, id="a space before Chinese marks too"),
        pytest.param("ab ▁a", "", {"latin": 2}, id="Latin pieces would change how English is cut"),
        pytest.param("f ~", "", {"latin": 2}, id="so would single ASCII characters"),
        pytest.param("ā “ “a", "ā “", {"latin": 1}, id="single letters beyond ASCII are taken"),
        pytest.param("— —— … ……", "— … —— ……", {}, id="Chinese doubles dash and ellipsis"),
        pytest.param("я яд", "я", {"unreachable": 1}, id="a piece of characters that are no pieces is left out"),
        pytest.param(
            "春 天 来 天来 春天来 春天",
            "春 天 来 天来 春天来 春天",
            {},
            id="a longer piece may be merged before a shorter one",
        ),
        pytest.param(
            "春 天 来 天来 春天 春天来天 来天",
            "春 天 来 天来 春天 来天",
            {"unreachable": 1},
            id="a piece that earlier merges cut across is left out",
        ),
    ],
)
def test_pieces_are_taken_by_rank(pieces: str, added: str, left_out: dict[str, int]) -> None:
    result = grown(pieces.split())
    rest = {*FILLERS, *PAIRS}
    assert [piece for piece in result.added if piece not in rest] == added.split()
    assert {reason: count for reason, count in result.left_out.items() if reason != "aboveMaxSize"} == left_out


def test_a_tab_stays_a_byte() -> None:
    assert grown(["\t", "。", "。\t"]).left_out == {"latin": 1, "unreachable": 1, "aboveMaxSize": 11}


def test_the_size_is_capped_by_dropping_the_lowest_ranked() -> None:
    base, new = Base(model(LETTERS)), model(FILLERS)
    size = len(base.proto.pieces)
    result = merge(base, new, 384)
    assert len(result.proto.pieces) == 384
    assert list(result.added) == FILLERS[: 384 - size]
    assert result.left_out == {"aboveMaxSize": len(FILLERS) - (384 - size)}


def test_below_the_cap_the_size_is_a_multiple_of_64_too() -> None:
    base = Base(model(LETTERS))
    result = merge(base, model(FILLERS[:130]), 65536)
    assert len(result.proto.pieces) == 384
    assert result.left_out == {"aboveMaxSize": len(base.proto.pieces) + 130 - 384}


def test_a_piece_that_is_dropped_takes_along_those_that_need_it() -> None:
    """Every piece that is kept is reached by the tokenizers library, which merges only pieces that are there."""
    result = merge(
        Base(model(LETTERS)), model(["春", "天", "来", "了", "春天", "春天来", "春天来了", *FILLERS[:52]]), 320
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=result.proto.SerializeToString())
    size = len(result.proto.pieces) - len(result.added)
    for number, piece in enumerate(result.added, start=size):
        assert processor.encode(piece)[-1] == number


def test_a_cap_below_the_base_is_refused() -> None:
    with pytest.raises(SpecError) as error:
        merge(Base(model(LETTERS)), model(FILLERS), 256)
    assert str(error.value) == "merge.maxSize is 256 and the base has 265 pieces already: raise it above 265"


def test_text_that_adds_nothing_is_an_error() -> None:
    with pytest.raises(DataError) as error:
        merge(Base(model(LETTERS)), model("春 天 春天"), 1024)
    assert str(error.value) == (
        "dataset.train gives 3 pieces that the base lacks, too few to grow its 265 to the next multiple of 64: give more text in the "
        "language to add, or raise train.vocabSize"
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "tokenizer.model").write_bytes(model(LETTERS).SerializeToString())
    return tmp_path


def files(**contents: Any) -> Callable[[Path], None]:
    """Writes files, named with ``_`` for ``.``; what is not bytes as JSON, None removes one."""

    def write(folder: Path) -> None:
        for name, content in contents.items():
            path = folder / re.sub(r"_(model|json)$", r".\1", name)
            if content is None:
                path.unlink()
            else:
                path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())

    return write


BYTE_LEVEL = (
    "is a byte-level BPE (as Llama-3's and Qwen's are): its pieces are bytes without scores, found after a split by a regular expression, "
    "so that Chinese pieces from sentencepiece cannot be appended to it. Name a base with a sentencepiece tokenizer.model, such as Llama-2"
)


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        pytest.param(
            files(tokenizer_model=None, tokenizer_json={"decoder": {"type": "ByteLevel"}}), SpecError, f"tokenizer.json {BYTE_LEVEL}",
            id="a byte-level tokenizer.json",
        ),
        pytest.param(
            files(tokenizer_model=None, vocab_json={}, **{"merges.txt": b"#version: 0.2"}), SpecError, f"merges.txt {BYTE_LEVEL}",
            id="a vocab.json with merges.txt",
        ),
        pytest.param(files(tokenizer_model=b"IQ== 0\nIg== 1\n"), SpecError, f"tokenizer.model {BYTE_LEVEL}", id="tiktoken ranks"),
        pytest.param(
            files(tokenizer_model=None, tokenizer_json={"model": {"type": "BPE"}}), InputError,
            "has no tokenizer.model, which new pieces are appended to; it holds tokenizer.json", id="no tokenizer.model",
        ),
        pytest.param(
            files(tokenizer_model=model(LETTERS).SerializeToString()[:500]), InputError,
            "tokenizer.model is not a sentencepiece model: copy it again (500 bytes)", id="half a file",
        ),
        pytest.param(files(tokenizer_model=b""), InputError, "tokenizer.model holds no pieces: copy it again (0 bytes)", id="an empty file"),
        pytest.param(
            files(tokenizer_model=model(LETTERS, model_type=1).SerializeToString()), SpecError,
            "tokenizer.model is a sentencepiece model of type unigram; pieces can be appended to type BPE only", id="a unigram model",
        ),
        pytest.param(
            files(tokenizer_model=trained(english(50), 100, byte_fallback=False).SerializeToString()), SpecError,
            "tokenizer.model lacks byte pieces (byte_fallback), so that text outside its vocabulary is lost: name another base",
            id="no byte pieces",
        ),
        pytest.param(
            files(tokenizer_model=model(LETTERS, treat_whitespace_as_suffix=True).SerializeToString()), SpecError,
            "tokenizer.model does not write spaces as ▁ before words (treat_whitespace_as_suffix, escape_whitespaces): name another base",
            id="spaces behind words",
        ),
        pytest.param(
            files(added_tokens_json={"<pad>": 300}), InputError,
            "gives the added token '<pad>' the id 300, and no token has the id 265: its files do not belong together", id="a gap in the ids",
        ),
        pytest.param(
            files(tokenizer_config_json=b"{"), InputError,
            "tokenizer_config.json is not JSON (Expecting property name enclosed in double quotes: line 1 column 2 (char 1)): copy the base again",
            id="a damaged config",
        ),
    ],
)  # fmt: skip
def test_a_base_that_cannot_be_extended_is_refused(
    folder: Path, change: Callable[[Path], None], kind: type[Exception], message: str
) -> None:
    change(folder)
    with pytest.raises(kind) as error:
        load_base(folder)
    assert str(error.value).startswith(f"spec.base.uri: {folder}")
    assert str(error.value).removeprefix(f"spec.base.uri: {folder}").lstrip("/ ") == message


def test_a_byte_level_file_is_refused_as_its_folder_is(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"decoder": {"type": "ByteLevel"}}')
    with pytest.raises(SpecError) as error:
        load_base(tmp_path / "tokenizer.json")
    assert str(error.value) == f"spec.base.uri: {tmp_path / 'tokenizer.json'} {BYTE_LEVEL}"


def test_the_file_itself_is_a_base_too(folder: Path) -> None:
    assert load_base(folder / "tokenizer.model").proto == load_base(folder).proto


def test_tokens_that_json_files_add_keep_their_ids(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    decoder = {
        "0": {"content": "<unk>", "special": True},
        "265": {"content": "<pad>", "special": True},
        "266": {"content": "<user>", "special": False},
    }
    files(tokenizer_config_json={"added_tokens_decoder": decoder, "pad_token": "<pad>", "model_max_length": 4096})(
        folder
    )
    base = load_base(folder)
    assert [(piece.piece, piece.type) for piece in base.proto.pieces[265:]] == [
        ("<pad>", CONTROL),
        ("<user>", USER_DEFINED),
    ]
    out = tmp_path_factory.mktemp("out")
    save(merge(base, model(FILLERS), 1024), base, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.convert_tokens_to_ids(["<pad>", "<user>", FILLERS[0]]) == [265, 266, 267]
    assert (tokenizer.pad_token, tokenizer.model_max_length) == ("<pad>", 4096)
    assert tokenizer("a<user>b", add_special_tokens=False).input_ids[2] == 266


def test_a_pad_token_that_is_eos_is_not_kept(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    files(tokenizer_config_json={"pad_token": {"content": "</s>"}, "eos_token": {"content": "</s>"}})(folder)
    out = tmp_path_factory.mktemp("out")
    base = load_base(folder)
    save(merge(base, model(FILLERS), 1024), base, out)
    config = json.loads((out / "tokenizer_config.json").read_text())
    assert (config["pad_token"], config["eos_token"]) == ("<unk>", "</s>")


def test_a_chat_template_goes_along(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}")
    out = tmp_path_factory.mktemp("out")
    base = load_base(folder)
    save(merge(base, model(FILLERS), 1024), base, out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    assert tokenizer.apply_chat_template([{"role": "user", "content": "春"}], tokenize=False) == "春"


def test_a_result_can_be_the_next_base(merged_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(merged_folder, tmp_path / "base")
    base = load_base(tmp_path / "base")
    result = merge(base, model(FILLERS), 65536)
    assert result.proto.pieces[len(base.proto.pieces)].piece == result.added[0]
