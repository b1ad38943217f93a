"""Which attention a model computes with."""

from __future__ import annotations

import pytest

from workloads.models.kernels import KERNELS, kernels_of, plain


@pytest.mark.parametrize(("kind", "kernels", "read_with"), [
    pytest.param("llama", KERNELS, "sdpa", id="Llama with any"),
    pytest.param("gemma2", ("flash_attention_3", "flash_attention_2", "eager"), "eager", id="Gemma 2 caps its scores, which sdpa cannot"),
    pytest.param("nobody's", KERNELS, "sdpa", id="an unknown one is refused where it is loaded"),
])  # fmt: skip
def test_a_model_computes_with_what_its_architecture_knows(kind: str, kernels: tuple[str, ...], read_with: str) -> None:
    assert kernels_of({"model_type": kind}) == kernels
    assert plain({"model_type": kind}) == read_with
