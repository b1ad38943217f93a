"""Attention of several conversations in one pass: their tokens stand one after the other, each sees its own row, and a row costs about its
length.

It is one of transformers' attention interfaces, so that a model's own code computes everything else, and it calls transformers' sdpa, for
each group of answers that are written, and for each text that is read.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import torch
from transformers.integrations import sdpa_attention

from workloads.errors import SpecError
from workloads.serving.engine.rows import Group, Places, Row

if TYPE_CHECKING:
    from transformers import PretrainedConfig

NAME = "sdpa_by_row"
SEEING_ALL = frozenset({"full_attention", "sliding_attention"})


@dataclass(frozen=True)
class Part:
    """Tokens of one row in a pass."""

    row: Row
    tokens: list[int]


class Pass:
    """The tokens that are computed together, and where each row's stand among them: first those of the groups, then those of texts that
    are read."""

    def __init__(self, groups: list[Group], newest: dict[Row, int], read: list[Part], device: torch.device) -> None:
        """``newest``: the token of each row of the groups."""
        self._groups, self._read, self._device = groups, read, device
        self.parts = [*(Part(row, [newest[row]]) for group in groups for row in group), *read]
        self._known: dict[Any, Any] = {}

    def run(
        self, model: Any, wanted: Container[Row], whole: Container[Row] = ()
    ) -> tuple[list[Row], torch.Tensor, dict[Row, torch.Tensor]]:
        """Compute them; the rows know their tokens afterwards. Returns the ``wanted`` rows, and the logits at the end of each, (rows,
        vocabulary); and of each row in ``whole`` those behind all of its tokens, (tokens, vocabulary)."""
        ids = [token for part in self.parts for token in part.tokens]
        at = [place for part in self.parts for place in range(part.row.length, part.row.length + len(part.tokens))]
        ends = list(accumulate(len(part.tokens) for part in self.parts))
        kept = [(part.row, end - 1) for part, end in zip(self.parts, ends, strict=True) if part.row in wanted]
        places = [
            (part.row, place)
            for part, end in zip(self.parts, ends, strict=True)
            if part.row in whole
            for place in range(end - len(part.tokens), end)
        ]
        logits = model(
            input_ids=self._tensor([ids]),
            position_ids=self._tensor([at]),
            # Of four dimensions, so that transformers makes none of its own, which would be of all tokens and all rows.
            attention_mask=torch.ones((1, 1, 1, 1), dtype=torch.bool, device=self._device),
            use_cache=False,
            logits_to_keep=self._tensor([place for _, place in (*kept, *places)] or [0]),
            rows=self,
        ).logits[0]
        for part in self.parts:
            part.row.tokens += part.tokens
        told = {
            row: logits[[len(kept) + at for at, (other, _) in enumerate(places) if other is row]]
            for row in dict.fromkeys(row for row, _ in places)
        }
        return [row for row, _ in kept], logits[: len(kept)], told

    def attend(
        self,
        module: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        window: int | None,
        **options: Any,
    ) -> torch.Tensor:
        """Of one layer: (1, heads, tokens, width) each; returns (1, tokens, heads, width)."""
        layer, device = module.layer_idx, query.device
        outputs, start = [], 0
        for group in self._groups:
            places, mask = self._of_group(group, window, query)
            end = start + len(group.rows)
            new = (each[0, :, start:end].transpose(0, 1) for each in (query, key, value))
            queries, keys, values = next(new)[:, :, None], *group.put(layer, places, next(new), next(new))
            output = sdpa_attention.sdpa_attention_forward(module, queries, keys, values, mask, **options)[0]
            outputs.append(output.transpose(0, 1))
            start = end
        for part in self._read:
            end = start + len(part.tokens)
            keys, values = part.row.put(layer, key[0, :, start:end], value[0, :, start:end])
            mask = self._of_part(part, window, device)
            queries = query[:, :, start:end]
            output = sdpa_attention.sdpa_attention_forward(module, queries, keys[None], values[None], mask, **options)[
                0
            ]
            outputs.append(output)
            start = end
        return torch.cat(outputs, 1)

    def _of_group(self, group: Group, window: int | None, query: torch.Tensor) -> tuple[Places, torch.Tensor | None]:
        """Where its newest tokens stand, and what each sees of its row: (rows, 1, 1, tokens), None for all."""
        name = (group, window, query.device)
        if name not in self._known:
            places = group.places(query.device)
            mask = None
            if window is not None or any(row.length + 1 < places.end for row in group):
                all_places, last = torch.arange(places.end, device=query.device)[None], places.at[:, None]
                hidden = all_places > last
                if window is not None:
                    hidden |= all_places <= last - window
                mask = torch.zeros(hidden.shape, dtype=query.dtype, device=query.device)
                mask = mask.masked_fill_(hidden, torch.finfo(query.dtype).min)[:, None, None]
            self._known[name] = places, mask
        return self._known[name]  # type: ignore[no-any-return]

    def _of_part(self, part: Part, window: int | None, device: torch.device) -> torch.Tensor | None:
        """What the tokens of a text see of their row, (1, 1, new tokens, tokens). None where sdpa knows by itself."""
        known, new = part.row.length, len(part.tokens)
        if window is None and (known == 0 or new == 1):
            return None
        name = (part.row, window, device)
        if name not in self._known:
            seen = torch.ones((new, known + new), dtype=torch.bool, device=device).tril(known)
            if window is not None:
                seen = seen.triu(known - window + 1)
            self._known[name] = seen[None, None]
        return self._known[name]  # type: ignore[no-any-return]

    def _tensor(self, numbers: list[Any]) -> torch.Tensor:
        return torch.tensor(numbers, dtype=torch.long, device=self._device)


def by_row(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    rows: Pass | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface. Without ``rows`` it is sdpa: whoever else computes with the model knows nothing of a pass."""
    if rows is None:
        return sdpa_attention.sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    return rows.attend(module, query, key, value, sliding_window, **options), None


def check(config: PretrainedConfig, name: str) -> None:
    """Raises SpecError for a model whose layers are more than attention, or have an attention of their own."""
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return  # loading says so
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    others = sorted(set(getattr(config, "layer_types", None) or ()) - SEEING_ALL)
    if others or model._is_stateful or not (model._supports_sdpa and model._can_set_attn_implementation()):
        kind = f"{config.model_type} ({', '.join(others)})" if others else config.model_type
        raise SpecError(
            f"{name}: the engine Transformers computes models whose layers all attend by sdpa, and {kind} has others: set engine to vLLM, or "
            "to External"
        )


def prepare(model: Any) -> None:
    """Let a model compute so."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(NAME, by_row)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)
