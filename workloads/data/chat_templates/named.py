"""The templates that a spec may name: the ``.jinja`` files of this folder, and what each needs of a tokenizer."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from workloads.errors import SpecError

FOLDER = Path(__file__).parent
NAMED = ("HumanAssistant", "Llama2", "Llama3", "ChatML")
NEEDED_TOKENS: dict[str, tuple[str, ...]] = {
    "HumanAssistant": (),
    "Llama2": (),
    "Llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "ChatML": ("<|im_start|>", "<|im_end|>"),
}
"""What a named template writes under its own name; each must be one token of the vocabulary."""
NEEDED_KINDS: dict[str, tuple[str, ...]] = {
    "HumanAssistant": ("eos",),
    "Llama2": ("eos", "bos"),
    "Llama3": ("bos",),
    "ChatML": (),
}
"""What it writes under the tokenizer's name."""


def named_source(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """The Jinja of a named template. Raises SpecError where the tokenizer lacks a token that the template writes."""
    known = tokenizer.get_added_vocab()
    missing = [token for token in NEEDED_TOKENS[name] if token not in known]
    missing += [f"an {kind}_token" for kind in NEEDED_KINDS[name] if getattr(tokenizer, f"{kind}_token") is None]
    if missing:
        raise SpecError(
            f"template: {name} needs {', '.join(missing)}, which the model's tokenizer lacks: "
            "use FromModel, or HumanAssistant, which needs only an eos_token"
        )
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
