"""What a fine-tuning knows about the model it trains: the base, the adapter that it starts from, and what becomes of the two."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.sft import SFTSpec
from workloads.models import adapters, libraries, load, rope, safetensors_io, saved_dtype
from workloads.models.inspect import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Base
from workloads.models.load import LoadOptions
from workloads.models.lora_adapter import LoRAAdapter
from workloads.storage.sources import Inputs
from workloads.training import checks, memory_estimate
from workloads.training.memory_estimate import Sizes

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.models.merge_lora import MergeCheck


@dataclass(frozen=True)
class TunedModel:
    """A model that was looked into, and can be loaded, trained, published and merged."""

    spec: SFTSpec
    base: Base
    adapter: LoRAAdapter | None
    """The one to start from."""
    sizes: Sizes
    log: Callable[[str], None]
    heartbeat: Callable[[], None]

    @classmethod
    def inspect(
        cls, spec: SFTSpec, inputs: Inputs, log: Callable[[str], None], heartbeat: Callable[[], None]
    ) -> TunedModel:
        """Everything that its files tell, and that training, publishing and merging will need of them. The heavy libraries are imported once
        the folders and the spec were looked at.

        Raises InputError, DataError or SpecError that names the field.
        """
        base = checks.inspect_trainable(inputs["model"].path, "spec.model.uri", str(spec.model.uri), spec)
        adapter = adapters.open_adapter(inputs["adapter"].path, spec) if spec.adapter else None
        trained = rope.trained_with([(adapter.label, adapter.folder)] if adapter else [])
        base = rope.stretched(base, spec.model.rope_scaling, "spec.model.ropeScaling", trained)
        for line in rope.taken_over(base, spec.model.rope_scaling):
            log(line)
        sizes = memory_estimate.sizes(base, spec)
        libraries.quiet(**checks.optional_packages(spec))
        if spec.method != "Full":
            adapters.check_fits(base, spec, adapter)
        return cls(spec, base, adapter, sizes, log, heartbeat)

    @property
    def dtype(self) -> str:
        """Of a whole model's weights, as they are published."""
        return self.base.dtype if self.spec.dtype == "Auto" else self.spec.dtype

    @property
    def shard_size(self) -> int:
        """Bytes of the largest file of a whole model's weights."""
        return safetensors_io.byte_count(self.spec.max_shard_size)

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse a tokenizer that the embedding is too small for, and a sequence that the positions are too few for."""
        checks.check_tokenizer_and_length(self.base, tokenizer, self.spec.model, self.spec)

    def load(self, options: LoadOptions) -> PreTrainedModel | PeftModel:
        """The base in memory, with what is trained in it."""
        model = load.load_base(self.base, f"spec.model {self.spec.model.uri}", options)
        if self.spec.method == "Full":
            return model
        return adapters.attach(model, self.spec.lora, options, self.adapter.folder if self.adapter else None)

    def finish(self, folder: Path) -> None:
        """Make of the weights that were saved in ``folder`` what is published: a model in its type and files, an adapter that names its base."""
        if self.spec.method == "Full":
            saved_dtype.convert(folder, self.dtype, self.heartbeat, self.shard_size)
        else:
            adapters.name_base(folder, self.spec.model, self.base)

    def merge(self, trained: Path, folder: Path, sample: list[list[int]]) -> MergeCheck:
        """The base with the adapter in ``trained`` merged into it, saved in ``folder`` with the adapter and compared with both on ``sample``."""
        from workloads.models import merge_lora

        (folder / "adapter").mkdir()
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            shutil.copyfile(trained / name, folder / "adapter" / name)
        adapter = LoRAAdapter.open(folder / "adapter", "the adapter that was trained")
        target = merge_lora.Target(
            folder,
            self.dtype,
            shard_size=self.shard_size,
            remedy=f"the adapter is whole at {self.spec.output.uri}: set merge to false, and it is the result, without training again",
            heartbeat=self.heartbeat,
        )
        check = merge_lora.merge(self.base, [merge_lora.Step(adapter)], target, sample)
        self.log(
            f"merged in float32, saved as {self.dtype}: largest logit difference {check.logit_difference:.3g}, the same likeliest token at "
            f"{100 * check.token_agreement:.1f} % of the positions"
        )
        return check
