"""The Modelfile that ollama makes a model of the file by: https://docs.ollama.com/modelfile.

ollama writes prompts by a Go template of its own, once for each turn. It is derived from what our template writes, and left out where
that is not made of the same parts in every turn.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.data.chat_templates.template import Template

SYSTEM, USER, ANSWER, MORE = "规", "问", "答", "续"
"""Words that no template writes by itself; each stands once in a probe."""
WITHOUT = "# Its chat template has another form in every turn, which ollama's language has no words for: give TEMPLATE yourself."


def write(file: str, template: Template, context: int) -> str:
    """The content of a Modelfile beside ``file``."""
    found = go_template(template)
    names = template.tokenizer.convert_ids_to_tokens(template.stop_ids)
    stops = [*names, *(word for word in template.next_turn[1] if word not in names)]
    return "\n".join(
        [
            "# ollama create NAME -f Modelfile && ollama run NAME",
            f"FROM ./{file}",
            WITHOUT if found is None else f'TEMPLATE """{found}"""',
            *(f"PARAMETER stop {_quoted(stop)}" for stop in stops),
            f"PARAMETER num_ctx {min(context, 4096)}",
            "",
        ]
    )


def go_template(template: Template) -> str | None:
    """One turn in ollama's words, or None where turns are not made of the same parts. ollama puts the first token before by itself."""
    parts = _parts(template)
    if parts is None:
        return None
    before, between, after_question, end = parts
    opening = "{{ if .System }}" + between[0] + "{{ .System }}" + between[1] + "{{ else }}" + before + "{{ end }}"
    if between == ("", ""):
        opening = before
    return f"{opening}{{{{ .Prompt }}}}{after_question}{{{{ .Response }}}}{end}"


def _parts(template: Template) -> tuple[str, tuple[str, str], str, str] | None:
    """What is written before a question, around a system prompt before a question, between question and answer, and after an answer."""
    asked = _render(template, [("user", USER)], prompt=True)
    told = _render(template, [("user", USER), ("assistant", ANSWER), ("user", MORE)], prompt=True)
    if asked is None or asked.count(USER) != 1:
        return None
    before, _, after_question = asked.partition(USER)
    alone = _render(template, [("user", USER), ("assistant", ANSWER)], prompt=False)
    space, after_answer = template.frame  # the model writes them, so they are in what ollama keeps of an answer
    answered = f"{asked}{space}{ANSWER}{after_answer}"
    if alone is None or not alone.startswith(answered):
        return None
    end = alone.removeprefix(answered)
    between = ("", "")
    with_system = _render(template, [("system", SYSTEM), ("user", USER)], prompt=True)
    if with_system is not None:
        if with_system.count(SYSTEM) != 1 or not with_system.endswith(USER + after_question):
            return None
        opening, _, rest = with_system.removesuffix(USER + after_question).partition(SYSTEM)
        between = (opening, rest)
    if told is not None:
        again = told.removeprefix(alone)
        first = again.removesuffix(f"{before}{MORE}{after_question}")
        if first not in ("", template.tokenizer.bos_token):
            return None
        end += first
    pieces = (before, *between, after_question, end)
    return None if any("{{" in piece or '"""' in piece for piece in pieces) else (before, between, after_question, end)


def _render(template: Template, said: Sequence[tuple[str, str]], prompt: bool) -> str | None:
    """Without the token that a text begins with; None where the template does not take it."""
    try:
        text = template.render([{"role": role, "content": content} for role, content in said], prompt)
    except ValueError:
        return None
    return text.removeprefix(template.tokenizer.bos_token or "")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
