"""Base models and adapters: what lies in a folder, and how it gets into memory.

`inspect` reads config.json and the headers of the weights only, so that a wrong folder, a wrong vocabulary or a sequence that
is too long is told before anything large is loaded.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.base import ModelSource, RopeScaling
from alpaca_operator.api.sft import SFTSpec
from alpaca_operator.api.training import LoRA
from workloads.errors import DataError, InputError, SpecError
from workloads.models import safetensors_io
from workloads.training import method
from workloads.training.auto import Device, Policy, Sizes
from workloads.training.method import Spec

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Shapes = dict[str, tuple[int, ...]]
"""Shape of every weight, by name."""

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
EMBEDDING = "embed_tokens"
HEAD = "lm_head"

UNUSED_BY_TRAINING = ("torchao", "gptqmodel", "optimum", "awq", "hqq", "quanto", "torchvision", "torchaudio")
"""Packages that transformers and peft import wherever they are installed, and that no fine-tuning needs."""


@dataclass(frozen=True)
class Base:
    """A base model's folder, looked into."""

    folder: Path
    config: dict[str, Any]
    shapes: Shapes

    @property
    def rows(self) -> int:
        """Rows of the input embedding: the largest token id that the model knows, plus one."""
        return next((shape[0] for name, shape in self.shapes.items() if name.endswith(f"{EMBEDDING}.weight")), 0)

    @property
    def tied(self) -> bool:
        """Whether the output head is the input embedding."""
        return not any(name.endswith(f"{HEAD}.weight") for name in self.shapes)


def quiet_libraries(*, bitsandbytes: bool = False, deepspeed: bool = False) -> None:
    """Keep the libraries' own progress bars and deprecation notes off the log, and their optional imports out of the process.

    What is not asked for counts as not installed from here on (a name that is None in `sys.modules`): importing it would cost
    every start two seconds. Called before transformers is first imported.
    """
    unused = {*UNUSED_BY_TRAINING}
    if not bitsandbytes and not _cuda_visible():
        unused.add("bitsandbytes")
    if not deepspeed and not _cuda_visible():
        unused.add("deepspeed")
    for name in unused:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]
    # Told to the libraries' authors, not to whoever trains.
    for library in ("transformers", "peft", "accelerate"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    for library in ("accelerate", "bitsandbytes", "deepspeed", "DeepSpeed"):
        logging.getLogger(library).setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def show_libraries(*names: str) -> None:
    """Undo `quiet_libraries` for packages that this job needs, which an earlier job of the same process has hidden."""
    for name in names:
        if name in sys.modules and sys.modules[name] is None:
            del sys.modules[name]
    from transformers.utils import import_utils

    for name in names:
        known = getattr(import_utils, f"is_{name}_available", None)
        if known is not None:
            known.cache_clear()


def needs(spec: Spec) -> dict[str, bool]:
    """Which optional packages a job uses: the arguments of `quiet_libraries`."""
    return {
        "bitsandbytes": method.of(spec).bits is not None or "8bit" in spec.training.optimizer,
        "deepspeed": spec.deepspeed is not None,
    }


def check_trackers(spec: Spec) -> None:
    """Refuse a tracker whose package is not installed."""
    if "WandB" in spec.training.report_to and not _installed("wandb"):
        raise SpecError(
            "training.reportTo names WandB and the package wandb is not installed: add it to the image (pip install wandb), or remove "
            "WandB from reportTo"
        )


def device() -> Device:
    """What this process trains on."""
    import torch

    if not torch.cuda.is_available():
        return Device("cpu", "this machine's CPU", 0, bitsandbytes=_installed("bitsandbytes"))
    properties = torch.cuda.get_device_properties(local_rank())
    return Device(
        kind="cuda",
        name=properties.name,
        memory=properties.total_memory,
        capability=(properties.major, properties.minor),
        flash_attention_2=_installed("flash_attn"),
        flash_attention_3=_installed("flash_attn_interface"),
        bitsandbytes=_installed("bitsandbytes"),
    )


def local_rank() -> int:
    """The number of this process's GPU."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def inspect(folder: Path, field: str, uri: str, spec: Spec) -> Base:
    """Read what the folder says about its model. Raises InputError that says what is missing and what lies there instead."""
    base = look(folder, field, uri)
    if "quantization_config" in base.config:
        how = base.config["quantization_config"].get("quant_method", "quantized")
        raise InputError(
            f"{field} {uri} is quantized already ({how}), which cannot be trained: name the unquantized model, and "
            f"{method.of(spec).words.smaller} to hold it in 4 bits"
        )
    return base


def look(folder: Path, field: str, uri: str) -> Base:
    """The same for a model of any kind, quantized ones among them."""
    shown = f"{field} {uri}"
    if not folder.is_dir():
        raise InputError(f"{shown}: there is no folder {folder}{_nearby(folder)}")
    config_file = folder / "config.json"
    if not config_file.is_file():
        if (folder / ADAPTER_CONFIG).is_file():
            raise InputError(
                f"{shown} is a LoRA adapter, not a base model: name its base there, and the adapter under spec.adapter"
            )
        raise InputError(f"{shown}: {folder} has no config.json{_contents(folder)}")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{shown}: {config_file} is no JSON ({error}): copy the model again") from error
    return Base(folder, config, _shapes(folder, shown))


def sizes(base: Base, spec: Spec) -> Sizes:
    """The numbers that the policy decides by. Raises SpecError when `lora` names layers that the model does not have."""
    parameters = sum(_count(shape) for shape in base.shapes.values())
    ends = [name for name in base.shapes if name.endswith((f"{EMBEDDING}.weight", f"{HEAD}.weight"))]
    embeddings = sum(_count(base.shapes[name]) for name in ends)
    layers = _adapted(base.shapes, spec.lora.target_modules)
    how = method.of(spec)
    if how.trains != "Adapter":
        trainable = parameters if how.trains == "Everything" else embeddings
    else:
        if not layers and how.adapter_uri is None:
            raise SpecError(
                f"lora.targetModules names {', '.join(spec.lora.target_modules)}, and this model has no such layer: it has "
                f"{', '.join(_layer_names(base.shapes))}"
            )
        trainable = sum(spec.lora.rank * sum(base.shapes[name]) for name in layers)
        for module in spec.lora.modules_to_save:
            saved = [name for name in base.shapes if module in name.split(".")]
            if not saved and not (module == HEAD and base.tied):
                raise SpecError(
                    f"lora.modulesToSave names {module}, and this model has no such layer: it has "
                    f"{', '.join(_layer_names(base.shapes))}"
                )
            trainable += sum(_count(base.shapes[name]) for name in saved)
    return Sizes(
        parameters=parameters,
        embeddings=embeddings,
        trainable=trainable,
        hidden=int(base.config.get("hidden_size", 0)),
        intermediate=int(base.config.get("intermediate_size", 0)),
        layers=int(base.config.get("num_hidden_layers", 0)),
        vocabulary=base.rows,
        widths=tuple(sorted({base.shapes[name][1] for name in layers})),
    )


def check(base: Base, tokenizer: PreTrainedTokenizerBase, source: ModelSource, spec: Spec) -> None:
    """Refuse a tokenizer that the embedding is too small for, and a sequence that the positions are too few for."""
    check_vocabulary(base, tokenizer, f"spec.model {source.uri}")
    check_length(base, source.rope_scaling, spec)


def check_vocabulary(base: Base, tokenizer: PreTrainedTokenizerBase, shown: str) -> None:
    """Refuse a tokenizer that the embedding is too small for."""
    if len(tokenizer) > base.rows:
        raise InputError(
            f"{shown}: its tokenizer has {len(tokenizer)} tokens and its embedding {base.rows} rows, so ids from "
            f"{base.rows} on have no vector: put the tokenizer there that the model was trained with"
        )


def check_length(base: Base, scaling: RopeScaling | None, spec: Spec) -> None:
    """Refuse a sequence that the positions are too few for."""
    how = method.of(spec)
    check_reach(base, scaling, how.length, how.words.length)


def check_reach(base: Base, scaling: RopeScaling | None, length: int, field: str) -> None:
    """Refuse a ``length``, which the spec calls ``field``, that the positions are too few for."""
    limit = base.config.get("max_position_embeddings")
    if limit is None:
        return
    reach = int(limit * (scaling.factor if scaling else 1))
    if length > reach:
        raise SpecError(
            f"{field} {length} is beyond the {reach} positions of the model"
            f"{' with its ropeScaling' if scaling else ''}: lower it to {reach}, or set model.ropeScaling.factor to "
            f"{-(-length // limit)} or more"
        )


def check_adapter(base: Base, folder: Path, spec: SFTSpec) -> dict[str, Any]:
    """The configuration of the adapter to start from, after making sure that it fits the base and `lora`.

    Raises InputError for a folder without an adapter, DataError where its vocabulary is not the base's, SpecError where `lora`
    says something else.
    """
    assert spec.adapter is not None
    shown = f"spec.adapter {spec.adapter.uri}"
    if not folder.is_dir():
        raise InputError(f"{shown}: there is no folder {folder}{_nearby(folder)}")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{shown}: {folder} has no {name}{_contents(folder)}")
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise InputError(f"{shown} is of type {config.get('peft_type')}: only LoRA adapters can be trained on")
    shapes = {name: tensor.shape for name, tensor in safetensors_io.tensors(folder / ADAPTER_WEIGHTS, shown).items()}
    for name, shape in shapes.items():
        if EMBEDDING in name and "lora_" not in name and shape[0] != base.rows:
            raise DataError(
                f"{shown} was trained with a vocabulary of {shape[0]} rows and the base {spec.model.uri} has {base.rows}: name the base "
                "that the adapter was made from"
            )
    for name, shape in shapes.items():
        layer = next(
            (key for key in base.shapes if key.rpartition(".")[0] and _stem(name).endswith(key.rpartition(".")[0])),
            None,
        )
        if layer and name.endswith("lora_A.weight") and shape[1] != base.shapes[layer][1]:
            raise DataError(
                f"{shown}: {_stem(name)} takes {shape[1]} inputs and the base's layer has {base.shapes[layer][1]}: name the base that "
                "the adapter was made from"
            )
    said = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "target_modules": sorted(config.get("target_modules") or []),
        "modules_to_save": sorted(config.get("modules_to_save") or []),
        "use_rslora": bool(config.get("use_rslora")),
        "use_dora": bool(config.get("use_dora")),
    }
    asked = spec.lora.model_dump(include=set(said) & spec.lora.model_fields_set)
    for key, value in asked.items():
        value = sorted(value) if isinstance(value, list) else value
        if value != said[key]:
            alias = LoRA.model_fields[key].alias
            raise SpecError(
                f"lora.{alias} is {value} and the adapter at {spec.adapter.uri} was made with {said[key]}: leave lora.{alias} out, or "
                "start a fresh adapter by leaving spec.adapter out"
            )
    return config


def load(base: Base, source: ModelSource, policy: Policy) -> PreTrainedModel:
    """The base in memory, as the policy says. Raises InputError when its weights are not whole."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    shown = f"spec.model {source.uri}"
    try:
        config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False, local_files_only=True)
    except (ValueError, KeyError, OSError) as error:
        raise InputError(
            f"{shown}: {_first_line(error)}. Models that bring their own code are not loaded: use a Llama architecture"
        ) from error
    if source.rope_scaling:
        stretch(config, source.rope_scaling.type, source.rope_scaling.factor)
    options: dict[str, Any] = {}
    if policy.bits:
        options["quantization_config"] = _quantization(policy)
        options["device_map"] = {"": f"cuda:{local_rank()}" if torch.cuda.is_available() else "cpu"}
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            base.folder,
            config=config,
            dtype=getattr(torch, policy.weights),
            attn_implementation=policy.attention,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    except (OSError, ValueError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(f"{shown}: the weights cannot be loaded: {_first_line(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        # transformers would go on with random weights in their place, and only warn.
        raise InputError(
            f"{shown}: {len(missing)} weights that config.json asks for are not in the files ({', '.join(missing[:3])}, …): copy the "
            "model again"
        )
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # bitsandbytes repacks 4-bit weights at the first evaluation for a kernel without a gradient, and never back: on a CPU
            # with AVX512-BF16 the steps after it would train on wrong gradients.
            module.support_avx512bf16_for_cpu = False
    model.config.use_cache = False  # packed rows are kept apart by their positions only without a cache
    return model


def attach_adapter(model: PreTrainedModel, lora: LoRA, policy: Policy, start_from: Path | None = None) -> PeftModel:
    """Freeze the base and put a LoRA adapter on it: a fresh one, or the one that training goes on from."""
    import peft

    if policy.bits:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if start_from is not None:
        return peft.PeftModel.from_pretrained(
            model, start_from, is_trainable=True, autocast_adapter_dtype=True, torch_device=str(model.device)
        )
    tied = bool(model.config.tie_word_embeddings)
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            modules_to_save=list(lora.modules_to_save) or None,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            # A tied head that is trained apart from its embedding would be merged into garbage.
            ensure_weight_tying=tied and bool({EMBEDDING, HEAD} & set(lora.modules_to_save)),
            bias="none",
            init_lora_weights=True,
        ),
        autocast_adapter_dtype=True,
    )


def with_rows(base: Base, rows: int) -> Base:
    """``base`` as it will be once its embeddings have ``rows`` rows."""
    ends = (f"{EMBEDDING}.weight", f"{HEAD}.weight")
    shapes = {name: (rows, *shape[1:]) if name.endswith(ends) else shape for name, shape in base.shapes.items()}
    return replace(base, shapes=shapes)


def name_special_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Let the model's configuration name the ids that its new tokenizer has for begin, end and padding."""
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        for config in (model.config, model.generation_config):
            if config is not None:
                setattr(config, name, getattr(tokenizer, name))
    generation = model.generation_config
    if generation is not None:
        try:
            generation.validate(strict=True)
        except ValueError:
            # Early Llama-2 copies name a temperature without sampling; once changed, such a configuration cannot be saved.
            generation.do_sample = True


def in_one_dtype(model: PreTrainedModel, policy: Policy) -> None:
    """Embeddings that were trained in float32 go back to the dtype of the rest, for saving."""
    import torch

    model.to(getattr(torch, policy.weights))


def name_base(adapter_folder: Path, source: ModelSource, base: Base) -> None:
    """Let adapter_config.json name the base as others find it: a repository and revision on the hub, else the folder."""
    path = adapter_folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    if source.uri.startswith("hf://"):
        name, _, revision = source.uri.removeprefix("hf://").partition("@")
        config |= {"base_model_name_or_path": name, "revision": revision or None}
    else:
        config["base_model_name_or_path"] = str(base.folder)
    for layers in ("target_modules", "modules_to_save"):
        if isinstance(config.get(layers), list):
            config[layers].sort()  # sets to PEFT, in another order each time: the same run gives the same files
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def stretch(config: Any, kind: str, factor: float) -> None:
    """Set rope scaling on a transformers configuration, so that what is saved with it reaches as far as it was trained."""
    original = config.max_position_embeddings
    config.rope_parameters = {
        **{key: value for key, value in (config.rope_parameters or {}).items() if key == "rope_theta"},
        "rope_type": kind,
        "factor": factor,
        **({"original_max_position_embeddings": original} if kind == "yarn" else {}),
    }
    # Dynamic scaling measures the length against this number, so there it has to stay the original's.
    if kind != "dynamic":
        config.max_position_embeddings = int(original * factor)


def _quantization(policy: Policy) -> Any:
    import torch
    from transformers import BitsAndBytesConfig

    if policy.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    compute = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[policy.precision]
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def weight_files(folder: Path, shown: str) -> list[Path]:
    """The safetensors files of a model. Raises InputError, which begins with ``shown``, for one that is missing."""
    index = folder / safetensors_io.INDEX
    if index.is_file():
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    else:
        names = [safetensors_io.WHOLE]
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        if index.is_file():
            raise InputError(
                f"{shown}: model.safetensors.index.json names {len(names)} files and {', '.join(missing[:3])} is missing: copy the model again"
            )
        if any(folder.glob("*.bin")):
            raise InputError(
                f"{shown}: {folder} has weights as .bin (pickle) only, which can run code when loaded: convert them to safetensors, or "
                "name a revision that has them"
            )
        raise InputError(f"{shown}: {folder} has a config.json and no weights (model.safetensors){_contents(folder)}")
    return [folder / name for name in names]


def _shapes(folder: Path, shown: str) -> Shapes:
    """Shapes of all weights of a model, from the headers of its safetensors files."""
    return {
        name: tensor.shape
        for file in weight_files(folder, shown)
        for name, tensor in safetensors_io.tensors(file, shown).items()
    }


def _adapted(shapes: Shapes, targets: Iterable[str]) -> list[str]:
    """Weights of the linear layers whose name ends in one of ``targets``, as peft matches them."""
    ends = tuple(targets)
    return [
        name
        for name, shape in shapes.items()
        if len(shape) == 2
        and name.endswith(".weight")
        and any(name[: -len(".weight")] == end or name[: -len(".weight")].endswith(f".{end}") for end in ends)
    ]


def _layer_names(shapes: Shapes) -> list[str]:
    return sorted(
        {name.split(".")[-2] for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight")}
    )


def _stem(name: str) -> str:
    """`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` → `model.layers.0.self_attn.q_proj`."""
    return name.removeprefix("base_model.model.").partition(".lora_")[0]


def _count(shape: tuple[int, ...]) -> int:
    size = 1
    for length in shape:
        size *= length
    return size


def _nearby(folder: Path) -> str:
    parent = next(parent for parent in folder.parents if parent.is_dir())
    return f" ({parent} has {_list(parent)})"


def _contents(folder: Path) -> str:
    return f": it has {_list(folder)}"


def _list(folder: Path, limit: int = 8) -> str:
    names = sorted(path.name + ("/" if path.is_dir() else "") for path in folder.iterdir())
    if not names:
        return "nothing in it"
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _cuda_visible() -> bool:
    """Whether a CUDA driver is there, told without importing torch."""
    return Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
