"""A model from scratch: the shape that a config.json describes, with fresh weights."""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.pretrain import Init
from workloads.data import tokenize
from workloads.errors import InputError, SpecError
from workloads.models.inspect import Base
from workloads.models.load import LoadOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FOLLOWS_TOKENIZER = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
"""Values of config.json that the tokenizer decides."""


def configuration(init: Init, path: Path, tokenizer: PreTrainedTokenizerBase, block_size: int) -> Any:
    """The transformers configuration of the model to be made, from a config.json or the folder that holds it.

    Raises InputError for a file that describes no model, SpecError for an override that it does not know.
    """
    from transformers import CONFIG_MAPPING

    label = f"spec.init.config {init.config.uri}"
    file = path if path.is_file() else path / "config.json"
    try:
        described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind = CONFIG_MAPPING[described["model_type"]]
    except FileNotFoundError as error:
        raise InputError(f"{label}: {path} has no config.json: name the file, or the folder that holds it") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{label}: {file} is no JSON object ({error}): copy it again") from error
    except KeyError as error:
        raise InputError(
            f"{label}: {file} names no model_type that transformers knows ({error}): use a Llama architecture"
        ) from error
    known = {**kind().to_dict(), **described}
    for name in init.overrides:
        if name in FOLLOWS_TOKENIZER:
            raise SpecError(f"init.overrides names {name}, which follows the tokenizer: remove it")
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f": did you mean {close[0]}?" if close else f": it has {', '.join(sorted(known))}"
            raise SpecError(
                f"init.overrides names {name}, and a {described['model_type']} model has no such value{hint}"
            )
    wanted = {key: value for key, value in described.items() if key not in ("quantization_config", "auto_map")}
    wanted |= init.overrides | {
        "vocab_size": tokenize.rows_of(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    config = kind.from_dict(wanted)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None and block_size > positions:
        raise SpecError(
            f"training.blockSize {block_size} is beyond the {positions} positions of the model: lower it to {positions}, or set "
            f"init.overrides.max_position_embeddings to {block_size}"
        )
    return config


def described(config: Any, path: Path) -> Base:
    """The shapes of the model, without its weights. Raises SpecError where the numbers do not fit each other."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (ValueError, RuntimeError, ZeroDivisionError, TypeError) as error:
        raise SpecError(f"init: no model can be made of this configuration: {error}: mend init.overrides") from error
    shapes = {name: tuple(weight.shape) for name, weight in empty.named_parameters()}  # a tied head has one name only
    return Base(path, config.to_dict(), shapes)


def fresh(config: Any, options: LoadOptions) -> PreTrainedModel:
    """The model with random weights, as torch's random state gives them."""
    import torch
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=getattr(torch, options.weights), attn_implementation=options.attention, trust_remote_code=False
    )
    model.config.use_cache = False
    return model
