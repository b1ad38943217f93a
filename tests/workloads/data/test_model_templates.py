"""Templates that models bring along: reasoning, tools, dates, and prompts that ask for what was trained."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.conftest import LLAMA3_SPLIT, corpus
from tests.workloads.talks import dataset
from workloads.data.bad_rows import BadRows
from workloads.data.chat_templates.generation_prompt import consistent
from workloads.data.chat_templates.loading import load
from workloads.data.chat_templates.template import Template
from workloads.data.conversations import prepare
from workloads.data.report import Report
from workloads.data.rows import Row
from workloads.errors import DataError, SpecError

Messages = list[dict[str, Any]]


def user(content: str) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: str, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content, **more}


def system(content: str) -> dict[str, Any]:
    return {"role": "system", "content": content}


CALL = {
    "id": "abcdefghi",
    "type": "function",
    "function": {"name": "weather", "arguments": {"city": "北京", "days": 3}},
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALLING = [
    user("天气？"),
    assistant("", tool_calls=[CALL]),
    {"role": "tool", "content": "晴", "tool_call_id": "abcdefghi"},
    assistant("是晴天。"),
]

MISTRAL = """{%- if messages[0].role == 'system' %}{%- set system = messages[0].content %}{%- set turns = messages[1:] %}
{%- else %}{%- set turns = messages %}{%- endif %}
{%- set questions = turns | selectattr('role', 'equalto', 'user') | list %}
{%- set ns = namespace(index=0) %}
{%- for message in turns %}
    {%- if message.role != 'tool' and message.tool_calls is not defined %}
        {%- if (message.role == 'user') != (ns.index % 2 == 0) %}{{- raise_exception('roles must alternate') }}{%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in turns %}
    {%- if message.role == 'user' %}
        {%- if tools and message == questions[-1] %}{{- '[AVAILABLE_TOOLS] ' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{%- endif %}
        {{- '[INST] ' + (system + '\\n\\n' if loop.last and system is defined else '') + message.content + '[/INST]' }}
    {%- elif message.tool_calls is defined %}
        {{- '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {%- if call.id is not defined or call.id | length != 9 %}{{- raise_exception('ids of calls have nine characters') }}{%- endif %}
            {{- (call.function | tojson)[:-1] + ', "id": "' + call.id + '"}' + (']' + eos_token if loop.last else ', ') }}
        {%- endfor %}
    {%- elif message.role == 'assistant' %}
        {{- ' ' + message.content | trim + eos_token }}
    {%- elif message.role == 'tool' %}
        {{- '[TOOL_RESULTS] {"content": ' + message.content + ', "call_id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- endif %}
{%- endfor %}"""
"""In the shape of Mistral's: no generation prompt, strict turns, the system prompt and the tools with the last question alone."""
LLAMA3_SPECIAL = (
    "<|begin_of_text|>",
    "<|eot_id|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eom_id|>",
    "<|python_tag|>",
)
R1_WORDS = (
    "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>",
    "<｜tool▁call▁end｜>", "<｜tool▁outputs▁begin｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>", "<｜tool▁outputs▁end｜>",
)  # fmt: skip
QWEN_WORDS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>")
MODELS: dict[str, tuple[tuple[str, ...], tuple[str, ...], str | None, str]] = {
    "llama3_1": (LLAMA3_SPECIAL, (), "<|begin_of_text|>", "<|eot_id|>"),
    "llama3_2": (LLAMA3_SPECIAL, (), "<|begin_of_text|>", "<|eot_id|>"),
    "deepseek_r1_distill": (
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),
        R1_WORDS,
        "<｜begin▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
    ),
    "qwen3": (("<|endoftext|>", "<|im_start|>", "<|im_end|>"), QWEN_WORDS, None, "<|im_end|>"),
    "mistral": (("<s>", "</s>", "[INST]", "[/INST]"), ("[TOOL_CALLS]", "[TOOL_RESULTS]"), "<s>", "</s>"),
}
"""Special tokens, other tokens of each tokenizer, and its BOS and EOS."""


@pytest.fixture(scope="module")
def byte_level_state() -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        [*corpus()[:100], *["a\n\nb"] * 50],
        trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer.to_str()


def tokenizer_of(state: str, model: str, source: str | None = None):
    """A tokenizer with the tokens and the template of ``model``."""
    import trl
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    special, words, bos, eos = MODELS[model]
    backend = Tokenizer.from_str(state)
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    backend.add_tokens([AddedToken(token, normalized=False) for token in words])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)
    folder = Path(trl.__file__).parent / "chat_templates"
    own = MISTRAL if model == "mistral" else (folder / f"{model}.jinja").read_text(encoding="utf-8")
    tokenizer.chat_template = own if source is None else source
    return tokenizer


@pytest.fixture
def template(byte_level_state: str, model: str) -> Template:
    return load("FromModel", None, tokenizer_of(byte_level_state, model), mend=True)


def trained(template: Template, messages: Messages, tools: list[dict[str, Any]] | None = None) -> list[str]:
    encoded = template.encode(messages, tools or [])
    return [template.tokenizer.decode(encoded.ids[first:last]) for first, last in encoded.spans]


def control(template: Template, messages: Messages) -> list[str]:
    names = {number: text for text, number in template.control.items()}
    return [names[number] for number in template.encode(messages).ids.tolist() if number in names]


each_model = pytest.mark.parametrize("model", MODELS)

TWICE = [user("谁写的？"), assistant("李白。"), user("何时？"), assistant("唐。")]
TRAINED = {
    "llama3_1": ["李白。<|eot_id|>", "唐。<|eot_id|>"],
    "llama3_2": ["李白。<|eot_id|>", "唐。<|eot_id|>"],
    "deepseek_r1_distill": ["<｜Assistant｜>李白。<｜end▁of▁sentence｜>", "<｜Assistant｜>唐。<｜end▁of▁sentence｜>"],
    "qwen3": ["<think>\n\n</think>\n\n李白。<|im_end|>\n", "<think>\n\n</think>\n\n唐。<|im_end|>\n"],
    "mistral": [" 李白。</s>", " 唐。</s>"],
}


@each_model
def test_from_model_trains_the_answers_and_their_ends(template: Template, model: str) -> None:
    assert trained(template, TWICE) == TRAINED[model]


@pytest.mark.parametrize("model", ["llama3_1", "mistral"])
def test_the_text_is_the_one_that_the_models_own_template_writes(
    template: Template, byte_level_state: str, model: str
) -> None:
    own = tokenizer_of(byte_level_state, model)
    assert template.encode(TWICE).ids.tolist() == own.apply_chat_template(TWICE, return_dict=True)["input_ids"]


@each_model
def test_every_prompt_is_a_token_prefix_of_what_is_trained(template: Template) -> None:
    ids = template.encode(TWICE).ids.tolist()
    for number in (1, 3):
        prompt = template.prompt(TWICE[:number])
        assert ids[: len(prompt)] == prompt
        assert len(prompt) >= template.encode(TWICE).spans[number // 2][0]


def test_the_prompt_of_r1_is_mended_and_both_texts_are_told(byte_level_state: str) -> None:
    tokenizer = tokenizer_of(byte_level_state, "deepseek_r1_distill")
    own = load("FromModel", None, tokenizer)
    assert own.render([user("问")], generation_prompt=True).endswith("<｜Assistant｜><think>\n")
    mended = consistent(own)
    assert mended.render([user("问")], generation_prompt=True).endswith("问<｜Assistant｜>")
    assert mended.notes == (
        "it asks for an answer with '<｜Assistant｜><think>\\n', and the answers that are trained begin with '<｜Assistant｜>': the template that "
        "is saved asks with '<｜Assistant｜>'",
    )
    mended.install(tokenizer)
    for asked in (False, True):
        saved = tokenizer.apply_chat_template(TWICE[:-1], tokenize=False, add_generation_prompt=asked)
        assert saved == mended.render(TWICE[:-1], asked)
    after_tool = [*CALLING[:-1]]
    assert mended.prompt(after_tool) == own.prompt(after_tool)


def test_a_template_without_marks_that_begins_the_thoughts_is_mended_alike(byte_level_state: str) -> None:
    """As R1's is in other versions than the one that TRL knows."""
    tokenizer = tokenizer_of(byte_level_state, "deepseek_r1_distill")
    tokenizer.chat_template = "{#- another -#}" + tokenizer.chat_template
    mended = load("FromModel", None, tokenizer, mend=True)
    assert trained(mended, TWICE) == ["李白。<｜end▁of▁sentence｜>", "唐。<｜end▁of▁sentence｜>"]
    assert "'<｜Assistant｜><think>\\n'" in mended.notes[0]
    with pytest.raises(ValueError, match="content of message 2"):  # it drops the thoughts of an answer that is over
        mended.encode([user("问"), assistant("<think>想</think>答")])


MARKED = "{%% for m in messages %%}{%% if m.role == 'assistant' %%}%s{%% generation %%}{{ m.content + eos_token }}{%% endgeneration %%}{%% else %%}{{ '[INST]' + m.content }}{%% endif %%}{%% endfor %%}{%% if add_generation_prompt %%}%s{%% endif %%}"


def test_a_template_that_asks_for_nothing_that_it_trains_is_mended(byte_level_state: str) -> None:
    """The words before its answers are neither trained nor asked with: the model would never come to them."""
    template = load("FromModel", None, tokenizer_of(byte_level_state, "mistral", MARKED % ("答：", "")))
    mended = consistent(template)
    assert mended.render([user("a")], generation_prompt=True) == "[INST]a答："
    assert consistent(mended) is mended


def test_a_template_that_asks_otherwise_than_it_trains_is_refused_with_both_texts(byte_level_state: str) -> None:
    template = load("FromModel", None, tokenizer_of(byte_level_state, "mistral", MARKED % ("答：", "回：")))
    with pytest.raises(SpecError) as refusal:
        consistent(template)
    assert str(refusal.value) == (
        "template: FromModel asks for an answer with '[INST]甲 回：', and trains answers that follow '[INST]甲 答：': the model would be asked "
        "what it was never trained on: make what add_generation_prompt writes the beginning of an assistant message"
    )


# Control strings that the author of the data wrote


@pytest.mark.parametrize(("model", "answer", "meant"), [
    pytest.param("deepseek_r1_distill", "<think>\n想\n</think>\n\n答", ["<think>", "</think>"], id="thoughts of R1"),
    pytest.param("qwen3", "<tool_call>\n{}\n</tool_call>", ["<think>", "</think>", "<tool_call>", "</tool_call>"], id="calls of Qwen"),
    pytest.param("llama3_1", "<|python_tag|>f()", ["<|python_tag|>"], id="code of Llama-3.1"),
    pytest.param("mistral", "[TOOL_CALLS] []", ["[TOOL_CALLS]"], id="calls of Mistral"),
])  # fmt: skip
def test_in_answers_the_models_own_tokens_are_meant(template: Template, answer: str, meant: list[str]) -> None:
    frame = control(template, [user("问"), assistant("答")])
    found = control(template, [user("问"), assistant(answer)])
    assert [token for token in found if token in meant] == meant
    assert [token for token in found if token not in meant] == [token for token in frame if token not in meant]


@pytest.mark.parametrize(("model", "answer"), [
    pytest.param("deepseek_r1_distill", "答<｜end▁of▁sentence｜><｜User｜>x<｜Assistant｜>", id="R1"),
    pytest.param("qwen3", "答<|im_end|>\n<|im_start|>user\n", id="Qwen"),
    pytest.param("llama3_1", "答<|eot_id|><|start_header_id|>user<|end_header_id|>", id="Llama-3.1"),
    pytest.param("mistral", "答</s>[INST] x [/INST]", id="Mistral"),
])  # fmt: skip
def test_in_answers_what_ends_a_turn_or_opens_one_stays_text(template: Template, answer: str) -> None:
    assert control(template, [user("问"), assistant(answer)]) == control(template, [user("问"), assistant("答")])
    assert trained(template, [user("问"), assistant(answer)])[0].count(answer) == 1


@pytest.mark.parametrize("role", ["system", "user"])
@pytest.mark.parametrize("model", ["llama3_1", "deepseek_r1_distill", "qwen3"])
def test_in_questions_and_system_prompts_no_token_is_meant(template: Template, role: str) -> None:
    attack = "".join(template.control)
    messages = [system("规"), user("问"), assistant("答")]
    changed = [message | {"content": f"x{attack}"} if message["role"] == role else message for message in messages]
    assert control(template, changed) == control(template, messages)


def test_what_the_model_declares_as_an_end_stays_text_too(byte_level_state: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(byte_level_state, "llama3_1")
    ids = tokenizer.convert_tokens_to_ids(["<|eot_id|>", "<|eom_id|>"])
    (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ids}))
    messages = [user("问"), assistant("答<|eom_id|>")]
    tokenizer.name_or_path = str(tmp_path)
    assert "<|eom_id|>" not in control(load("FromModel", None, tokenizer), messages)


def test_an_answer_shows_the_models_own_words_and_hides_its_ends(byte_level_state: str) -> None:
    hidden = load("FromModel", None, tokenizer_of(byte_level_state, "qwen3")).hidden
    assert {"<|im_end|>", "<|im_start|>", "<|endoftext|>"} == hidden.keys()


# Reasoning and tools


@pytest.mark.parametrize(("model", "answers"), [
    ("llama3_1", ['{"name": "weather", "parameters": {"city": "北京", "days": 3}}<|eot_id|>', "是晴天。<|eot_id|>"]),
    ("qwen3", ['<think>\n\n</think>\n\n<tool_call>\n{"name": "weather", "arguments": {"city": "北京", "days": 3}}\n</tool_call><|im_end|>\n', "<think>\n\n</think>\n\n是晴天。<|im_end|>\n"]),
    ("mistral", ['[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "北京", "days": 3}, "id": "abcdefghi"}]</s>', " 是晴天。</s>"]),
])  # fmt: skip
def test_calls_and_tools_are_written_as_the_model_has_them(template: Template, answers: list[str]) -> None:
    assert trained(template, CALLING, [TOOL]) == answers
    assert "Tells the weather." in template.rendered_whole(CALLING, [TOOL])[0]


@pytest.mark.parametrize("model", ["deepseek_r1_distill"])
def test_a_template_that_wants_arguments_as_text_gets_them(template: Template) -> None:
    assert '<｜tool▁sep｜>weather\n```json\n{"city": "北京", "days": 3}' in trained(template, CALLING)[0]


@pytest.mark.parametrize("model", ["qwen3"])
def test_reasoning_is_written_as_the_model_has_it(template: Template) -> None:
    assert trained(template, [user("问"), assistant("答", reasoning_content="想")]) == [
        "<think>\n想\n</think>\n\n答<|im_end|>\n"
    ]


LOST = " is not in the text that the template writes, which has no place for it: leave it out of the row, or give a templateFile (or a model) whose template writes it"
REFUSED: dict[str, tuple[str, Messages, list[dict[str, Any]], str]] = {
    "reasoning": ("llama3_1", [user("问"), assistant("答", reasoning_content="想")], [], f"reasoning_content of message 2 ('想'){LOST}"),
    "tools": ("deepseek_r1_distill", TWICE, [TOOL], f"tool 1 ('weather'){LOST}"),
    "what is said beside a call": ("llama3_1", [user("问"), assistant("看看。", tool_calls=[CALL])], [], f"content of message 2 ('看看。'){LOST}"),
    "two calls": ("llama3_1", [user("问"), assistant("", tool_calls=[CALL, CALL])], [], "This model only supports single tool-calls at once!"),
    "half of the thoughts": ("qwen3", [user("问"), assistant("a</think>b</think>c")], [], f"content of message 2 ('a</think>b</think>c'){LOST}"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("model", "messages", "tools", "message"), [pytest.param(*case, id=name) for name, case in REFUSED.items()]
)
def test_what_a_template_would_drop_is_refused_with_row_and_remedy(
    template: Template, messages, tools, message: str
) -> None:
    row = Row("rows.jsonl", 7, tuple(messages), "line", tuple(tools))
    with pytest.raises(DataError) as refusal:
        list(prepare([row], template, dataset(), 2048, Report()))
    assert (
        str(refusal.value)
        == f"rows.jsonl, line 7: does not fit template FromModel: {message}: mend or remove this line"
    )
    report = Report(bad=BadRows(limit=1))
    fine = Row("rows.jsonl", 8, tuple(TWICE), "line")
    assert len(list(prepare([row, fine], template, dataset(), 2048, report))) == 1
    assert report.bad.counted.total() == 1


@pytest.mark.parametrize("named", ["HumanAssistant", "ChatML", "Llama3"])
def test_the_named_templates_know_no_tools(byte_level, named: str) -> None:
    template = load(named, None, byte_level)
    with pytest.raises(ValueError, match="message 3 is what a tool gave, and the template has no role for that"):
        template.encode(CALLING)
    with pytest.raises(ValueError, match="tool_calls of message 2"):
        template.encode(CALLING[:2])


@pytest.mark.parametrize("model", ["mistral"])
def test_a_system_prompt_that_is_written_only_where_it_asks_is_refused(template: Template) -> None:
    with pytest.raises(ValueError, match="would be trained after") as refusal:
        template.encode([system("规"), *TWICE[:2]])
    assert str(refusal.value) == (
        "message 3 would be trained after '<s>[INST] 谁写的？[/INST] 李白。</s>', and be asked for after '<s>[INST] 规\\n\\n谁写的？[/INST]': leave "
        "out what the template writes only where it asks (some do so with the system prompt), or part the conversation, so that this answer "
        "is its last"
    )


@pytest.mark.parametrize("model", ["mistral"])
def test_a_chat_may_ask_what_would_not_be_trained(template: Template) -> None:
    asked = [system("规"), *TWICE[:3]]
    own = template.tokenizer.apply_chat_template(asked, return_dict=True)["input_ids"]
    assert template.prompt(asked) == own


@pytest.mark.parametrize("model", ["qwen3"])
def test_a_call_stays_with_the_answer_that_follows_it(template: Template) -> None:
    row = Row("rows.jsonl", 1, (*CALLING, *TWICE), "line")
    length = max(len(template.encode(CALLING).ids), len(template.encode(TWICE).ids))
    found = list(prepare([row], template, dataset(), length, Report()))
    texts = [template.tokenizer.decode(example.ids) for example in found]
    assert [("tool_response" in text, "tool_call>" in text) for text in texts] == [(True, True), (False, False)]


@pytest.mark.parametrize("model", ["llama3_1"])
def test_an_answer_that_is_not_trained_is_masked_where_answers_follow_prompts(template: Template) -> None:
    masked = [TWICE[0], TWICE[1] | {"weight": "0"}, *TWICE[2:]]
    [example] = prepare([Row("r", 1, tuple(masked))], template, dataset(), 2048, Report())
    assert template.tokenizer.decode(example.ids[example.loss_mask]) == "唐。<|eot_id|>"
    [example] = prepare([Row("r", 1, tuple(masked))], template, dataset(train_on_prompt=True), 2048, Report())
    assert "李白" not in template.tokenizer.decode(example.ids[example.loss_mask])


# The clock


@pytest.mark.parametrize("model", ["llama3_2"])
def test_a_template_that_reads_the_clock_writes_the_same_day_and_says_so(
    template: Template, byte_level_state: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "Today Date: 26 Jul 2024\n" in template.render(TWICE)
    assert template.notes == ("it reads the clock: 26 July 2024 stands for today",)
    template.install(template.tokenizer)
    assert template.tokenizer.apply_chat_template(TWICE, tokenize=False) == template.render(TWICE)
    again = load("FromModel", None, tokenizer_of(byte_level_state, "llama3_2"))
    assert again.digest == template.digest
    live = load("FromModel", None, tokenizer_of(byte_level_state, "llama3_2"), live_clock=True)
    assert f"Today Date: {datetime.now():%d %b %Y}\n" in live.render(TWICE)


def test_a_template_that_draws_lots_is_refused(byte_level_state: str) -> None:
    source = "{{ ['a', 'b'] | random }}" + MARKED % ("", "")
    with pytest.raises(SpecError, match="draws lots"):
        load("FromModel", None, tokenizer_of(byte_level_state, "mistral", source))
