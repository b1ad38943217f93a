"""What is refused of a model by a look into its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from workloads.data import tokenize
from workloads.errors import InputError
from workloads.models import inspect


def base(rows: int) -> inspect.Base:
    return inspect.Base(Path("base"), {}, {"model.embed_tokens.weight": (rows, 8)})


@pytest.fixture
def gapped() -> Any:
    """A tokenizer of three pieces, of which the last has a large id: as many published ones are, whose added tokens begin at a round
    number."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(WordLevel({"<unk>": 0, "山": 1, "水": 20}, unk_token="<unk>"))
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token=AddedToken("<unk>", special=True))


def test_an_embedding_needs_a_row_for_the_largest_id_and_not_one_for_each_token(gapped: Any) -> None:
    assert len(gapped) == 3
    assert tokenize.rows_of(gapped) == 21
    inspect.check_vocabulary(base(21), gapped, "spec.model base")
    with pytest.raises(InputError) as refusal:
        inspect.check_vocabulary(base(20), gapped, "spec.model base")
    assert str(refusal.value) == (
        "spec.model base: its tokenizer has ids up to 20 and its embedding 20 rows, so ids from 20 on have no vector: put the tokenizer "
        "there that the model was trained with"
    )
