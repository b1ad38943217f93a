"""Embeddings for another vocabulary: known tokens keep their rows, new ones start as the mean of their old parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest

from workloads.data.tokenizer_io import load_tokenizer
from workloads.models import resize_embeddings


@pytest.fixture(scope="module")
def old(library_folder: Path) -> Any:
    return load_tokenizer(library_folder / "base")


@pytest.fixture(scope="module")
def new(library_folder: Path) -> Any:
    return load_tokenizer(library_folder / "vocab")


def model(library_folder: Path, name: str) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(library_folder / name)


def ends(of: Any) -> list[Any]:
    return [of.get_input_embeddings().weight.detach(), of.get_output_embeddings().weight.detach()]


@pytest.mark.parametrize("name", ["base", "tied"])
def test_old_rows_stay_and_new_ones_are_the_mean_of_their_parts(
    library_folder: Path, old: Any, new: Any, name: str
) -> None:
    import torch

    grown = model(library_folder, name)
    before = [weight.clone() for weight in ends(grown)]
    resize_embeddings.change_vocabulary(grown, resize_embeddings.embedding_remap(old, new, len(old)))
    assert grown.config.vocab_size == len(new) > len(old)
    for weight, origin in zip(ends(grown), before, strict=True):
        assert len(weight) == len(new)
        assert torch.equal(weight[: len(old)], origin)
        for number in range(len(old), len(new)):
            text = new.convert_ids_to_tokens(number)
            assert "▁" not in text, "else the old tokenizer's own prefix would have to be told from the piece's"
            parts = old.backend_tokenizer.encode("a\n" + text, add_special_tokens=False).ids
            prefix = old.backend_tokenizer.encode("a\n", add_special_tokens=False).ids
            torch.testing.assert_close(weight[number], origin[parts[len(prefix) :]].mean(0))


def test_tied_ends_stay_tied(library_folder: Path, old: Any, new: Any) -> None:
    grown = model(library_folder, "tied")
    resize_embeddings.change_vocabulary(grown, resize_embeddings.embedding_remap(old, new, len(old)))
    assert grown.get_input_embeddings().weight is grown.get_output_embeddings().weight


def test_heads_that_are_not_tied_differ(library_folder: Path, old: Any, new: Any) -> None:
    grown = model(library_folder, "base")
    resize_embeddings.change_vocabulary(grown, resize_embeddings.embedding_remap(old, new, len(old)))
    head, embedding = ends(grown)
    assert not (head[len(old) :] == embedding[len(old) :]).all()


def test_text_of_old_tokens_has_the_logits_it_had(library_folder: Path, old: Any, new: Any) -> None:
    import torch

    grown = model(library_folder, "base").eval()
    ids = torch.tensor([old("A letter from home, in English.")["input_ids"]])
    with torch.inference_mode():
        before = grown(input_ids=ids).logits
        resize_embeddings.change_vocabulary(grown, resize_embeddings.embedding_remap(old, new, len(old)))
        after = grown(input_ids=ids).logits
    torch.testing.assert_close(after[..., : len(old)], before)


def test_a_token_under_another_id_brings_its_row_along(library_folder: Path, old: Any, new: Any) -> None:
    import torch

    back = resize_embeddings.embedding_remap(new, old, len(new))
    assert (back.rows, back.kept, back.averaged, back.dropped) == (len(old), len(old), 0, len(new) - len(old))

    class Shifted:
        """The old tokenizer with every id one higher, and a token more."""

        added_tokens_decoder: ClassVar[dict[int, Any]] = {}
        backend_tokenizer = old.backend_tokenizer

        def get_vocab(self) -> dict[str, int]:
            return {**{piece: number + 1 for piece, number in old.get_vocab().items()}, "th the": 0}

        def convert_tokens_to_ids(self, piece: str) -> int:
            return self.get_vocab()[piece]

        def __len__(self) -> int:
            return len(old) + 1

    shifted: Any = Shifted()
    found = resize_embeddings.embedding_remap(old, shifted, len(old))
    assert (found.kept, found.moved, found.averaged, found.dropped) == (0, len(old), 1, 0)
    weight = torch.arange(len(old) * 2.0).reshape(-1, 2)
    assert torch.equal(found.of(weight)[1:], weight)


def test_rows_that_no_token_of_the_base_used_are_not_taken_for_any(old: Any, new: Any) -> None:
    """Embeddings padded beyond the tokenizer lose the padding."""
    found = resize_embeddings.embedding_remap(old, new, len(old) + 40)
    assert found.rows == len(new)
    assert found.dropped == 40


def test_what_happens_to_the_rows_is_told(old: Any, new: Any) -> None:
    found = resize_embeddings.embedding_remap(old, new, len(old))
    assert str(found) == "960 embedding rows: 600 kept, 360 new ones, each the mean of its old sub-tokens"
    assert found.changes
    assert not resize_embeddings.embedding_remap(old, old, len(old)).changes


def test_only_the_embeddings_are_trained(library_folder: Path) -> None:
    import torch

    whole = model(library_folder, "base").to(torch.bfloat16)
    resize_embeddings.freeze_all_but_embeddings(whole)
    moving = {name: weight.dtype for name, weight in whole.named_parameters() if weight.requires_grad}
    assert moving == {"model.embed_tokens.weight": torch.float32, "lm_head.weight": torch.float32}


def test_half_precision_rows_keep_their_bits(old: Any, new: Any) -> None:
    import torch

    weight = torch.randn(len(old), 8).to(torch.bfloat16)
    grown = resize_embeddings.embedding_remap(old, new, len(old)).of(weight)
    assert grown.dtype == torch.bfloat16
    assert torch.equal(grown[: len(old)], weight)
