"""The prompt that asks for an answer, which must be how the text that was trained begins: else the model is asked what it never saw."""

from __future__ import annotations

from collections.abc import Sequence

from workloads.data.chat_templates.rendering import Message
from workloads.data.chat_templates.template import Template
from workloads.errors import SpecError

PROBES = tuple(
    [{"role": role, "content": f"{text} "} for role, text in zip(roles, "甲乙丙丁戊", strict=False)]
    for roles in (
        ["user", "assistant"],
        ["system", "user", "assistant"],
        ["user", "assistant", "user", "assistant"],
        ["system", "user", "assistant", "user"],
        ["user"],
    )
)
"""Conversations that tell formats apart, by their default system prompts too."""


def is_answering(template: Template) -> bool:
    """Whether answers of a template without generation markers are what follows its prompts, and nothing else."""
    try:
        text, spans = template.rendered_whole(PROBES[2])
    except ValueError:  # what it asks with is not how its texts begin
        return False
    contents = [message["content"].strip() for message in PROBES[2] if message["role"] == "assistant"]
    return all(text[start:end].lstrip().startswith(said) for said, (start, end) in zip(contents, spans, strict=True))


def consistent(template: Template) -> Template:
    """``template``, if each of its prompts is a token prefix of the text that it trains; else one of which they are.

    Raises SpecError, with both texts, where it cannot be told which of them is meant.
    """
    if not _differing(template):
        return template
    question, answer = PROBES[0]
    trained, spans = template.rendered_whole([question, answer])
    before, asked = template.render([question]), template.render([question], generation_prompt=True)
    prompt = asked.removeprefix(before)
    head = trained.removeprefix(before)
    start = spans[0][0] - len(before) if spans else len(head)
    head = head[: head.index(answer["content"].strip())]
    for header in (head, head[: max(0, start)]):
        if not (
            trained.startswith(before)
            and asked.startswith(before)
            and (prompt.startswith(header) or header.startswith(prompt))
        ):
            continue
        mended = template.changed(
            _asking_with(template, header),
            f"it asks for an answer with {prompt!r}, and the answers that are trained begin with {head!r}: the template that is saved asks with "
            f"{header!r}",
            after_prompt=template.after_prompt,
        )
        if not _differing(mended):
            return mended
    raise SpecError(
        f"template: {template.name} asks for an answer with {asked[-120:]!r}, and trains answers that follow {(before + head)[-120:]!r}: the "
        "model would be asked what it was never trained on: make what add_generation_prompt writes the beginning of an assistant message"
    )


def _differing(template: Template) -> bool:
    """Whether some prompt of a probe is not how its tokens begin, or ends before its answer does."""
    for probe in PROBES:
        try:
            encoded = template.encode(probe)
        except ValueError:  # no conversation of this format
            continue
        ids = encoded.ids.tolist()
        answers = [at for at, message in enumerate(probe) if message["role"] == "assistant"]
        for number, at in enumerate(answers):
            prompt = _prompt(template, probe[:at])
            if prompt is None or ids[: len(prompt)] != prompt:
                return True
            if number < len(encoded.spans) and len(prompt) < encoded.spans[number][0]:
                return True
    return False


def _prompt(template: Template, messages: Sequence[Message]) -> list[int] | None:
    try:
        return template.prompt(messages)
    except ValueError:
        return None


def _asking_with(template: Template, header: str) -> str:
    """The source with another generation prompt, except where its own writes nothing after what a tool gave."""
    tool = {"role": "tool", "content": "果"}
    unless = ""
    try:
        texts = [template.render([*PROBES[0], tool], generation_prompt=asked) for asked in (False, True)]
        unless = (
            " and messages[-1].role not in ('tool', 'ipython', 'function', 'observation')"
            if texts[0] == texts[1]
            else ""
        )
    except ValueError:  # no conversation of this format
        pass
    line = "\n" if template.source.startswith("\n") else ""  # Jinja takes one away behind the block
    return (
        "{%- set asked = add_generation_prompt | default(false) %}{%- set add_generation_prompt = false %}"
        f"{line}{template.source.removesuffix(chr(10))}{{%+ if asked{unless} %}}{{{{- {_literal(header)} }}}}{{%+ endif %}}"
    )


def _literal(text: str) -> str:
    quoted = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{quoted}'"
