"""Adapters and their base into one model: in float32, tensor by tensor, and proved against PEFT before it is published.

What a merged weight is depends on that weight and the adapter alone. So nothing is ever loaded whole: a model is merged, saved and
proved with the memory of a few of its tensors, whatever its size. `Weights` is a model as a function of names; an adapter on it is
another one, and so several adapters are a chain.
"""

from __future__ import annotations

import copy
import ctypes
import json
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import DataError, InputError, SpecError
from workloads.models import inspect, load, safetensors_io
from workloads.models.inspect import ADAPTER_CONFIG, ADAPTER_WEIGHTS, Base

if TYPE_CHECKING:
    import torch

    from alpaca_operator.api.base import RopeScaling
    from workloads.models.resize_embeddings import EmbeddingRemap

EMBEDDING, HEAD = f"{inspect.EMBEDDING}.weight", f"{inspect.HEAD}.weight"
SHARD_SIZE = 5 * 10**9
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of a logit that rounding to a dtype explains, as a share of the largest logit. A wrong merge (a scale left
out, a tied head gone astray) is off by the size of the logits themselves."""
COMPUTED = ("rotary_emb.inv_freq",)
"""Old files have them; they follow from the configuration, and another rope scaling makes them wrong."""
PREFIX = "base_model.model."
"""Before every name in PEFT's files."""
LORA = re.compile(
    r"(?P<layer>.+)\.(?:(?P<part>lora_[AB]|lora_magnitude_vector)(?:\.weight)?|lora_embedding_(?P<end>[AB]))"
)
INITIALISED = (True, False, None, "gaussian", "eva", "orthogonal")
"""Values of PEFT's `init_lora_weights` that leave the base as it is. The others (PiSSA, OLoRA, …) take something out of it first."""

M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h: blocks from this size on are mapped on their own."""


class Weights(ABC):
    """A model's weights in float32, each made when it is asked for."""

    embedding: str
    """Name of the input embedding."""
    head: str
    """Name of the output head, whether or not it is the embedding."""
    tied: bool
    """The head is the embedding."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Every weight in the order of the files; without a head that is the embedding."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]: ...

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """A tensor that the caller may change."""

    @property
    def rows(self) -> int:
        """Token ids that the model knows."""
        return self.shape(self.embedding)[0]


class Saved(Weights):
    """Those in a model's folder. Raises InputError for a folder without an input embedding."""

    def __init__(self, folder: Path, shown: str, *, tied: bool) -> None:
        self._tensors = {
            name: tensor
            for file in inspect.weight_files(folder, shown)
            for name, tensor in safetensors_io.tensors(file, shown).items()
            if not name.endswith(COMPUTED)
        }
        found = next((name for name in self._tensors if name.endswith(EMBEDDING)), None)
        if found is None:
            raise InputError(
                f"{shown}: no weight is called {EMBEDDING}: only models of Llama's kind are merged, and this has "
                f"{', '.join(list(self._tensors)[:3])}, …"
            )
        self.embedding, self.tied = found, tied
        self.head = next((name for name in self._tensors if name.endswith(HEAD)), HEAD)
        if tied:
            self._tensors.pop(self.head, None)  # transformers does not read it either
        elif self.head not in self._tensors:
            raise InputError(
                f"{shown}: config.json unties the head from the embedding, and there is no {HEAD}: copy the model again"
            )

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[self._own(name)].shape

    def read(self, name: str) -> torch.Tensor:
        read = self._tensors[self._own(name)].read()
        return read.float() if read.is_floating_point() else read

    def dtype(self, name: str) -> str:
        return self._tensors[self._own(name)].dtype

    def _own(self, name: str) -> str:
        return self.embedding if self.tied and name == self.head else name


class ResizedWeights(Weights):
    """Those of another model, with the embedding rows of another vocabulary."""

    def __init__(self, before: Weights, origins: EmbeddingRemap) -> None:
        self._before, self._origins = before, origins
        self.embedding, self.head, self.tied = before.embedding, before.head, before.tied

    @property
    def names(self) -> list[str]:
        return self._before.names

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._before.shape(name)
        return (self._origins.rows, *shape[1:]) if name in (self.embedding, self.head) else shape

    def read(self, name: str) -> torch.Tensor:
        read = self._before.read(name)
        return self._origins.of(read) if name in (self.embedding, self.head) else read


@dataclass
class Update:
    """What an adapter does to one weight."""

    whole: safetensors_io.Tensor | None = None
    """Takes its place (modulesToSave)."""
    lora_A: safetensors_io.Tensor | None = None
    """LoRA's A, of shape (rank, inputs)."""
    lora_B: safetensors_io.Tensor | None = None
    """LoRA's B, of shape (outputs, rank)."""
    magnitude: safetensors_io.Tensor | None = None
    """DoRA's, a value for each output."""
    embeds: bool = False
    """An embedding: A has a column for each row of the weight, and inputs and outputs are swapped."""
    scale: float = 1.0
    """Alpha divided by the rank, or by its root (rsLoRA)."""

    @property
    def change(self) -> tuple[int, ...] | None:
        """The shape of B·A, as the weight lies."""
        if self.lora_A is None or self.lora_B is None:
            return None
        shape = (self.lora_B.shape[0], self.lora_A.shape[1])
        return shape[::-1] if self.embeds else shape


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in its folder."""

    folder: Path
    shown: str
    """How messages name it."""
    config: dict[str, Any]
    updates: dict[str, Update]
    """By the name of the weight."""
    weight: float = 1.0
    """Factor on its update."""

    @classmethod
    def open(cls, folder: Path, shown: str, weight: float = 1.0) -> Adapter:
        """Read what it says about itself. Raises InputError, DataError or SpecError for one that cannot be merged."""
        for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
            if not (folder / name).is_file():
                raise InputError(
                    f"{shown}: {folder} has no {name}: name the folder of a LoRA adapter, saved as safetensors"
                )
        try:
            config = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{shown}: {ADAPTER_CONFIG} is no JSON ({error}): copy the adapter again") from error
        if config.get("peft_type") != "LORA":
            raise InputError(f"{shown} is of type {config.get('peft_type')}: only LoRA adapters are merged")
        if config.get("init_lora_weights", True) not in INITIALISED:
            raise SpecError(
                f"{shown} was initialised by {config['init_lora_weights']}, which takes its start out of the base: save it again as a plain "
                "LoRA (path_initial_model_for_weight_conversion in PEFT)"
            )
        updates = _updates(safetensors_io.tensors(folder / ADAPTER_WEIGHTS, shown), config, shown)
        if not updates:
            raise DataError(f"{shown}: {ADAPTER_WEIGHTS} has no tensors: the training that made it saved nothing")
        return cls(folder, shown, config, updates, weight)

    @property
    def rows(self) -> int | None:
        """Rows of the embeddings that it brings; None for one that brings none."""
        for name, update in self.updates.items():
            if name.endswith((EMBEDDING, HEAD)):
                shape = update.whole.shape if update.whole else update.change
                if shape:
                    return shape[0]
        return None

    def check(self, base: Weights, named: str) -> None:
        """Raises DataError for an adapter of another model than ``base``, which messages call ``named``."""
        known = {*base.names, base.head}
        missing = [name for name in self.updates if name not in known]
        if missing:
            layers = sorted({name.removesuffix(".weight").rpartition(".")[2] for name in known})
            raise DataError(
                f"{self.shown} updates {len(missing)} layers that {named} does not have ({missing[0].removesuffix('.weight')}; it has "
                f"{', '.join(layers)}): name the base that the adapter was made from"
            )
        for name, update in self.updates.items():
            own = base.shape(name)
            for shape in (update.whole.shape if update.whole else None, update.change):
                if shape is None or shape == own:
                    continue
                if name.endswith((EMBEDDING, HEAD)) and shape[1:] == own[1:]:
                    raise DataError(
                        f"{self.shown} was trained with a vocabulary of {shape[0]} rows and {named} has {own[0]}: name the base that the "
                        "adapter was made from, or put the tokenizer that it was trained with into its folder"
                    )
                raise DataError(
                    f"{self.shown}: its update of {name.removesuffix('.weight')} has the shape {_by(shape)} and the weight of {named} "
                    f"{_by(own)}: name the base that the adapter was made from"
                )

    def apply(self, name: str, before: Weights) -> torch.Tensor:
        """The merged weight."""
        import torch

        update = self.updates.get(name)
        if update is None:
            return before.read(name)
        # The same operations in the same order as PEFT's `merge_and_unload`, so that the result is the same bit by bit.
        merged = before.read(name) if update.whole is None else update.whole.read().float()
        if update.lora_A is not None and update.lora_B is not None:
            plain = update.magnitude is None and update.whole is None
            change = update.lora_B.read().float() @ update.lora_A.read().float()
            change = change.T if update.embeds else change
            change = change * (update.scale * self.weight if plain else update.scale)
            length = torch.linalg.norm(merged.T + change.T, dim=1) if update.magnitude and update.embeds else None
            change += merged
            if update.magnitude is not None:
                if length is None:
                    length = torch.linalg.norm(change, dim=1)
                factor = update.magnitude.read().float().reshape(-1) / length
                change = factor.view(1, -1) * change if update.embeds else factor.view(-1, 1) * change
            merged = change
            if plain:
                return self._sound(name, merged)
        if self.weight != 1:
            weight = before.read(name)
            merged = weight + self.weight * (merged - weight)
        return self._sound(name, merged)

    def _sound(self, name: str, merged: torch.Tensor) -> torch.Tensor:
        if not bool(merged.isfinite().all()):
            raise DataError(
                f"{self.shown} makes {name} infinite or not a number: the training that made it has diverged"
            )
        return merged


class Merged(Weights):
    """Those of another model with an adapter merged in."""

    def __init__(self, before: Weights, adapter: Adapter) -> None:
        self._before, self._adapter = before, adapter
        self.embedding, self.head = before.embedding, before.head
        self.tied = before.tied and self._stays_tied()

    @property
    def names(self) -> list[str]:
        before = self._before.names
        return before if self.tied or self.head in before else [*before, self.head]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._before.shape(name)

    def read(self, name: str) -> torch.Tensor:
        if self.tied and name == self.head:
            name = self.embedding
        return self._adapter.apply(name, self._before)

    def _stays_tied(self) -> bool:
        """A tied head that was trained apart from its embedding is lost where the two are saved as one."""
        import torch

        touched = {self.embedding, self.head} & self._adapter.updates.keys()
        if not touched:
            return True
        if touched == {self.embedding} and self._adapter.config.get("ensure_weight_tying"):
            return True
        return torch.equal(*(self._adapter.apply(name, self._before) for name in (self.embedding, self.head)))


@dataclass(frozen=True)
class Step:
    """An adapter to be merged, and what its vocabulary does to the embeddings first."""

    adapter: Adapter
    origins: EmbeddingRemap | None = None


@dataclass(frozen=True)
class MergeCheck:
    """How far a merged model is from base and adapter."""

    logit_difference: float
    """The largest, over all positions and tokens looked at."""
    token_agreement: float
    """Share of the positions at which both think the same token the likeliest."""


@dataclass(frozen=True)
class Target:
    """What is written, and what is told meanwhile."""

    folder: Path
    dtype: str
    """`float32`, `bfloat16` or `float16`."""
    shard_size: int = SHARD_SIZE
    """Bytes."""
    limit: float | None = None
    """Largest difference of a logit; what rounding to the dtype explains where it is not given."""
    remedy: str = "name the base that the adapter was made from"
    """What to do about a larger one."""
    written: Callable[[int, int], None] = field(default=lambda number, total: None)
    """Called after each file with the number written and their total."""
    heartbeat: Callable[[], None] = field(default=lambda: None)
    """Called for each tensor; may raise to stop."""


def merge(
    base: Base, steps: Sequence[Step], target: Target, sample: Sequence[Sequence[int]], rope_scaling: RopeScaling | None
) -> MergeCheck:
    """Merge ``steps`` in their order into ``base``, save as safetensors with config.json, and prove it.

    ``sample`` are token ids to compare on. Raises DataError where an adapter is of another base, and SpecError when the saved
    model, read back, is not base plus adapters.
    """
    _give_memory_back()
    config = _configuration(base, rope_scaling)
    saved: Weights = Saved(base.folder, str(base.folder), tied=bool(config.tie_word_embeddings))
    stages: list[tuple[Weights, Adapter]] = []
    reached = saved
    for step in steps:
        grown = ResizedWeights(reached, step.origins) if step.origins is not None else reached
        step.adapter.check(grown, "the base" if not stages else "what the adapters before it make of the base")
        stages.append((grown, step.adapter))
        reached = Merged(grown, step.adapter)
    _save(reached, saved, config, target)
    return verify_logits(stages, target, config, sample)


def _give_memory_back() -> None:
    """Have glibc return freed tensors to the system. It would keep those below 32 MB, in holes too small for the next: a model of
    270 MB took 380 MB of them, and takes 33."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 20)


def _configuration(base: Base, rope_scaling: RopeScaling | None) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(f"{base.folder}: config.json cannot be used ({str(error).splitlines()[0]})") from error
    if rope_scaling:
        load.apply_rope_scaling(config, rope_scaling.type, rope_scaling.factor)
    config.use_cache = True
    return config


def _save(merged: Weights, base: Weights, config: Any, target: Target) -> None:
    import torch

    assert isinstance(base, Saved)

    def dtype(name: str) -> str:
        held = base.dtype(name) if name in base.names else target.dtype
        return target.dtype if getattr(torch, held).is_floating_point else held

    def make(name: str) -> torch.Tensor:
        target.heartbeat()
        with torch.inference_mode():
            return merged.read(name)

    planned = [safetensors_io.Planned(name, merged.shape(name), dtype(name)) for name in merged.names]
    safetensors_io.write(target.folder, planned, target.shard_size, make, target.written)
    config = _of(merged, config)
    config.dtype = getattr(torch, target.dtype)
    config.save_pretrained(target.folder)


def _of(held: Weights, config: Any) -> Any:
    """The configuration of a model with these weights."""
    config = copy.deepcopy(config)
    config.vocab_size = held.rows
    config.tie_word_embeddings = held.tied
    return config


def verify_logits(
    stages: Sequence[tuple[Weights, Adapter]], target: Target, config: Any, sample: Sequence[Sequence[int]]
) -> MergeCheck:
    """PEFT's logits for each adapter on what came before it, beside those of the model with it merged in; the saved one at the end."""
    proofs = []
    for number, (before, adapter) in enumerate(stages):
        expected = _logits(before, config, sample, target.heartbeat, adapter)
        after: Weights = Merged(before, adapter)
        if number == len(stages) - 1:
            after = Saved(target.folder, str(target.folder), tied=after.tied)
        found = _logits(after, config, sample, target.heartbeat)
        proof = _compare(expected, found)
        proofs.append(proof)
        largest = max(float(logits.abs().max()) for logits in expected)
        limit = TOLERANCE[target.dtype] * max(largest, 1.0) if target.limit is None else target.limit
        if not proof.logit_difference <= limit:
            raise SpecError(  # trying again would not help
                f"merge: the merged model's logits differ from base + adapter by {proof.logit_difference:.3g} (largest logit {largest:.3g}, "
                f"bound {limit:.3g}, saved as {target.dtype}): nothing is published; {target.remedy}"
            )
    return MergeCheck(max(proof.logit_difference for proof in proofs), min(proof.token_agreement for proof in proofs))


def _logits(
    held: Weights,
    config: Any,
    sample: Sequence[Sequence[int]],
    heartbeat: Callable[[], None],
    adapter: Adapter | None = None,
) -> list[torch.Tensor]:
    """A row of logits for each token of each row, by transformers, and PEFT with an ``adapter``; one layer in memory at a time."""
    import torch
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        hollow = AutoModelForCausalLM.from_config(_of(held, config), dtype=torch.float32)  # type: ignore[no-untyped-call]
    hollowed = _move_to_meta(hollow)
    if adapter is not None:
        import peft

        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`", UserWarning)  # told to who trains
            hollow = peft.PeftModel.from_pretrained(hollow, str(adapter.folder), low_cpu_mem_usage=True)
    hollow.eval()
    _fill_while_used(hollow, hollowed, held, heartbeat, adapter)
    longest = max(len(ids) for ids in sample)
    # Padding on the right changes nothing before it: no position looks ahead.
    batch = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in sample])
    with torch.inference_mode():
        logits = hollow(input_ids=batch, use_cache=False).logits.float()
    return [row[: len(ids)].clone() for row, ids in zip(logits, sample, strict=True)]


def _move_to_meta(empty: Any) -> dict[int, torch.nn.Parameter]:
    """Give each weight its shape and the memory of one value; on the CPU, since PEFT moves an adapter to where its layer is."""
    import torch

    hollowed: dict[int, torch.nn.Parameter] = {}
    seen: dict[int, torch.nn.Parameter] = {}
    for layer in empty.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if id(parameter) not in seen:  # tied weights stay tied
                one = torch.zeros((), dtype=parameter.dtype).expand(parameter.shape)
                seen[id(parameter)] = torch.nn.Parameter(one, requires_grad=False)
            setattr(layer, name, seen[id(parameter)])
            hollowed[id(seen[id(parameter)])] = seen[id(parameter)]
    return hollowed


def _fill_while_used(
    hollow: Any,
    hollowed: dict[int, torch.nn.Parameter],
    held: Weights,
    heartbeat: Callable[[], None],
    adapter: Adapter | None,
) -> None:
    """Give each layer its weights when it is called, and take them away when it has answered."""
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    prefix = PREFIX if adapter is not None else ""
    weight = adapter.weight if adapter is not None else 1.0
    left = dict(hollowed)
    places: dict[Any, list[tuple[Any, str, str]]] = {}
    inside: dict[Any, Any] = {}
    for name in (*held.names, *((held.head,) if held.tied else ())):
        path, _, attribute = name.rpartition(".")
        try:
            layer = inner = hollow.get_submodule(prefix + path)
        except AttributeError:
            continue  # a weight that this version of transformers has no use for
        if isinstance(layer, ModulesToSaveWrapper):
            inner = layer.original_module
        elif isinstance(layer, BaseTunerLayer):
            inner = layer.get_base_layer()
        inside[layer] = inner
        places.setdefault(layer, [])
        parameter = getattr(inner, attribute)
        left.pop(id(parameter), None)
        if id(parameter) in hollowed:  # else the adapter has brought it
            places[layer].append((inner, attribute, name))
    lost = [name.removeprefix(prefix) for name, parameter in hollow.named_parameters() if id(parameter) in left]
    if lost:
        raise InputError(
            f"{len(lost)} weights that config.json asks for are not in the files ({', '.join(lost[:3])}, …): copy the model again"
        )

    def fill(layer: Any, _: Any) -> None:
        heartbeat()
        for inner, attribute, name in places[layer]:
            setattr(inner, attribute, torch.nn.Parameter(held.read(name), requires_grad=False))

    def blend_and_hollow(layer: Any, given: Any, answer: Any) -> Any:
        inner = inside[layer]
        if weight != 1 and inner is not layer:
            alone = inner(*given)
            answer = alone + weight * (answer - alone)
        for inner, attribute, _ in places[layer]:
            one = torch.zeros(()).expand(getattr(inner, attribute).shape)
            setattr(inner, attribute, torch.nn.Parameter(one, requires_grad=False))
        return answer

    for layer in places:
        if isinstance(layer, ModulesToSaveWrapper) and weight == 1:
            continue  # its original is not asked
        layer.register_forward_pre_hook(fill)
        layer.register_forward_hook(blend_and_hollow)


def _compare(expected: list[Any], found: list[Any]) -> MergeCheck:
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(expected, found, strict=True))
    return MergeCheck(difference, same / sum(len(logits) for logits in expected))


def _updates(tensors: dict[str, safetensors_io.Tensor], config: dict[str, Any], shown: str) -> dict[str, Update]:
    """What PEFT's file says, by the names of the base's weights. Raises DataError for what is no LoRA."""
    updates: dict[str, Update] = {}
    for key, tensor in tensors.items():
        name = key.removeprefix(PREFIX)
        found = LORA.fullmatch(name)
        if found is None:
            if ".lora_" in name or not name.endswith((".weight", ".bias")):
                raise DataError(f"{shown}: {ADAPTER_WEIGHTS} has {key}, which is no part of a LoRA that is merged here")
            updates.setdefault(name.replace(".base_layer.", "."), Update()).whole = tensor
            continue
        update = updates.setdefault(f"{found['layer']}.weight", Update())
        if found["part"] == "lora_magnitude_vector":
            update.magnitude = tensor
        elif (found["end"] or found["part"][-1]) == "A":
            update.lora_A = tensor
        else:
            update.lora_B = tensor
        update.embeds = update.embeds or found["end"] is not None
    for name, update in updates.items():
        if (update.lora_A is None) != (update.lora_B is None) or (update.magnitude and update.lora_A is None):
            raise DataError(
                f"{shown}: {ADAPTER_WEIGHTS} has only a part of the update of {name}: copy the adapter again"
            )
        if update.lora_A is not None and update.lora_B is not None:
            layer = name.removesuffix(".weight")
            rank = int(_pattern(config, "rank_pattern", layer, config.get("r")))
            if not update.lora_A.shape[0] == update.lora_B.shape[1] == rank:
                raise DataError(
                    f"{shown}: {ADAPTER_CONFIG} gives {layer} the rank {rank} and its matrices have {update.lora_A.shape[0]} and "
                    f"{update.lora_B.shape[1]}: the two files do not belong together"
                )
            alpha = float(_pattern(config, "alpha_pattern", layer, config.get("lora_alpha")))
            update.scale = alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank
    return updates


def _pattern(config: dict[str, Any], key: str, layer: str, default: Any) -> Any:
    """The value for a layer, where the adapter's configuration names some layers apart (by regular expression, as PEFT does)."""
    patterns: dict[str, Any] = config.get(key) or {}
    return next((value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", layer)), default)


def _by(shape: Iterable[int]) -> str:
    return "×".join(map(str, shape))
