"""For every field of every kind another value, and what else has to be set so that the field says something."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from alpaca_operator.api import KINDS
from tests.honoured.fields import leaves


class Case(NamedTuple):
    """A field, and what it is changed to."""

    value: Any
    given: Mapping[str, Any] = MappingProxyType({})
    """Of the spec before and after, by path; None takes a field away."""


POD: dict[str, Any] = {
    "image": "mine:1",
    "imagePullPolicy": "Always",
    "imagePullSecrets[].name": "pull",
    "resources.limits": {"memory": "4Gi"},
    "resources.requests": {"memory": "2Gi"},
    "resourceClaims[].name": "gpu",
    "resourceClaims[].resourceClaimName": Case("claim", {"pod.resourceClaims": [{"name": "gpu"}]}),
    "resourceClaims[].resourceClaimTemplateName": Case("template", {"pod.resourceClaims": [{"name": "gpu"}]}),
    "nodeSelector": {"disk": "ssd"},
    "tolerations[].key": "gpu",
    "tolerations[].operator": "Exists",
    "tolerations[].value": "yes",
    "tolerations[].effect": "NoSchedule",
    "tolerations[].tolerationSeconds": 5,
    "affinity": {"nodeAffinity": {}},
    "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}],
    "priorityClassName": "high",
    "serviceAccountName": "poet",
    "runtimeClassName": "nvidia",
    "schedulerName": "mine",
    "env[].name": "A",
    "env[].value": Case("1", {"pod.env": [{"name": "A"}]}),
    "env[].valueFrom": Case({"fieldRef": {"fieldPath": "metadata.name"}}, {"pod.env": [{"name": "A"}]}),
    "envFrom": [{"secretRef": {"name": "mine"}}],
    "volumes": [{"name": "scratch", "emptyDir": {}, "mountPath": "/scratch"}],
    "labels": {"team": "poets"},
    "annotations": {"team": "poets"},
    "shmSize": "2Gi",
    "terminationGracePeriodSeconds": 60,
}
JOB: dict[str, Any] = {
    "output.uri": "pvc://elsewhere/out",
    "output.overwrite": True,
    "failurePolicy.maxRestarts": 1,
    "failurePolicy.maxInfraRestarts": 1,
    "failurePolicy.hangTimeoutSeconds": 60,
    "suspend": True,
    "activeDeadlineSeconds": 60,
    "ttlSecondsAfterFinished": 60,
}
GATED = {"uri": "hf://poets/poet", "after": [{"from": {"kind": "EvaluationJob", "name": "gate"}}]}
PUBLISHED: dict[str, Any] = {
    "publish[].uri": "hf://poets/poet",
    "publish[].secretRef.name": Case("hub", {"publish": [{"uri": "hf://poets/poet"}]}),
    "publish[].private": Case(False, {"publish": [{"uri": "hf://poets/poet"}]}),
    "publish[].after[].from.kind": Case("MergeJob", {"publish": [GATED]}),
    "publish[].after[].from.name": Case("another", {"publish": [GATED]}),
}
"""Of every kind that makes a model."""
EVERYWHERE: dict[str, Any] = {"cache.claimName": "cache", **{f"pod.{name}": value for name, value in POD.items()}}
NOTHING_SET_ASIDE = {"dataset.validationSplit": 0}
CONVERSATIONS: dict[str, Any] = {"format": "Messages", "columns": {"output": "instruction", "instruction": "output"}}


def bad_rows(part: str, sources: str) -> dict[str, Any]:
    """Of three rows that cannot be used: borne or not, and how many are."""
    borne = {f"{part}.{sources}": [{"uri": "pvc://desk/bad.jsonl"}], f"{part}.onBadRow": "Skip"}
    return {f"{part}.onBadRow": Case("Fail", borne), f"{part}.maxBadRows": Case(2, borne)}


TWO_MODELS = [{"name": name, "model": {"uri": "pvc://desk/base"}, "template": "HumanAssistant"} for name in ("a", "b")]
SERVED = {"models[].model": None, "models[].template": None, "models[].endpoint": {"url": "http://one/v1"}}
JUDGED = {"models": TWO_MODELS, "judge": {"endpoint": {"url": "http://one/v1"}, "against": "a"}}


def endpoint(path: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Of an API that a job asks."""
    return {
        f"{path}.url": Case("http://two/v1", given),
        f"{path}.model": Case("poet", given),
        f"{path}.secretRef.name": Case("key", given),
        f"{path}.secretRef.key": Case("other", {**given, f"{path}.secretRef": {"name": "key"}}),
    }


MODEL: dict[str, Any] = {
    "model.ropeScaling.type": Case("yarn", {"model.ropeScaling": {"factor": 2}}),
    "model.ropeScaling.factor": Case(4, {"model.ropeScaling": {"factor": 2}}),
}
LORA: dict[str, Any] = {
    "lora.rank": 4,
    "lora.alpha": 8,
    "lora.dropout": 0.3,
    "lora.targetModules": ["q_proj"],
    "lora.modulesToSave": ["lm_head"],
    "lora.useRslora": True,
    "lora.useDora": True,
}
LOOP: dict[str, Any] = {
    "training.epochs": 7,
    "training.maxSteps": 5,
    "training.learningRate": 0.5,
    "training.scheduler": "linear",
    "training.warmupRatio": 0.5,
    "training.weightDecay": 0.5,
    "training.maxGradNorm": 0.5,
    "training.optimizer": "adafactor",
    "training.batchSizePerDevice": 3,
    "training.gradientAccumulation": 3,
    "training.seed": 7,
    "training.precision": "bf16",
    "training.attention": "eager",
    "training.gradientCheckpointing": "Full",
    "training.logSteps": 3,
    "training.evalSteps": 3,
    "training.saveSteps": 3,
    "training.keepCheckpoints": 5,
    "training.earlyStoppingPatience": 1,
    "training.reportTo": [],
    "deepspeed.preset": "Zero2",
    "deepspeed.offload": Case("CPU", {"deepspeed": {"preset": "Zero2"}}),
    "deepspeed.config": Case(
        {"zero_optimization": {"stage": 2}, "train_batch_size": "auto"},
        {"deepspeed": {"config": {"zero_optimization": {"stage": 1}}}},
    ),
    "parallelism.nodes": 2,
    "parallelism.minNodes": Case(2, {"parallelism": {"nodes": 4}}),
    "parallelism.rescaleAfterSeconds": Case(60, {"parallelism": {"nodes": 4, "minNodes": 2}}),
    "parallelism.processesPerNode": 2,
}
"""Of every kind that trains."""

NEARLY = {
    "sources": [{"uri": "pvc://desk/raw.jsonl"}, {"uri": "pvc://desk/nearly.jsonl"}],
    "deduplicate.near": {"threshold": 0.5},
}
NEARLY_SOURCES = {"sources": NEARLY["sources"]}
EARLIER = {**NEARLY_SOURCES, "deduplicate.against": [{"uri": "pvc://desk/raw.jsonl"}]}
TALKS = {"content": "Conversations", "sources": [{"uri": "pvc://desk/rows.json"}]}
OLD_TALKS = {
    **TALKS,
    "sources": [*TALKS["sources"], {"uri": "pvc://desk/more.json"}],
    "deduplicate.against": TALKS["sources"],
}
MEASURED = {"decontaminate": {"against": [{"uri": "pvc://desk/nearly.jsonl"}], "share": 0.3}}
OWN_RULE = {"clean.rules": [{"name": "one", "pattern": "山"}]}
SHARES = {"dataset.train[].weight": 2.5, "dataset.train[].maxRows": 9, "dataset.train[].maxTokens": 300}
SELECTED = {
    "adapterSelector": {"matchExpressions": [{"key": "team", "operator": "In", "values": ["poetry"]}]},
}
TABLES: dict[str, dict[str, Any]] = {
    "DatasetJob": {
        "sources[].name": "诗",
        "sources[].format": "Text",
        "sources[].license": "MIT",
        "sources[].columns.text": "other",
        "sources[].columns.title": "other",
        "content": Case("Conversations", {"sources": [{"uri": "pvc://desk/bad.jsonl"}], "onBadRow": "Skip"}),
        **{f"sources[].conversations.{name}": Case(value, TALKS) for name, value in CONVERSATIONS.items()},
        **{
            f"deduplicate.against[].conversations.{name}": Case(value, OLD_TALKS)
            for name, value in CONVERSATIONS.items()
        },
        "sources[].encoding": "gb18030",
        "sources[].maxDocuments": 3,
        "sources[].maxBytes": 50,
        "sources[].weight": 2.5,
        "clean.presets": ["Advertisements"],
        "clean.rules[].name": Case("two", OWN_RULE),
        "clean.rules[].pattern": Case("水", OWN_RULE),
        "clean.rules[].action": Case("DropLine", OWN_RULE),
        "clean.rules[].replacement": Case("川", OWN_RULE),
        "clean.normalize.width": "HalfLetters",
        "clean.normalize.traditional": "ToSimplified",
        "clean.normalize.whitespace": "Collapse",
        "filters.minCharacters": 15,
        "filters.maxCharacters": 15,
        "filters.minChineseShare": 0.9,
        "filters.maxSymbolShare": 0.1,
        "filters.maxDuplicateLineShare": 0.1,
        "filters.maxDuplicateNgramShare": 0.1,
        "filters.language": ["zh"],
        "filters.blocklist": ["山"],
        "deduplicate.exact": "None",
        "deduplicate.near.ngram": Case(20, NEARLY),
        "deduplicate.near.threshold": Case(0.95, NEARLY),
        "deduplicate.near.keep": Case("FirstSource", NEARLY),
        "deduplicate.against[].format": Case("Text", EARLIER),
        "deduplicate.against[].columns.text": Case("other", EARLIER),
        "deduplicate.against[].columns.title": Case("other", EARLIER),
        "deduplicate.against[].encoding": Case("gb18030", EARLIER),
        "decontaminate.ngram": Case(20, MEASURED),
        "decontaminate.share": Case(1, MEASURED),
        "privacy.mask": ["Email"],
        "split.validationShare": 0.5,
        "split.validationDocuments": 3,
        "seed": Case(7, {"split.validationShare": 0.5}),
        "mixing.temperature": Case(3, NEARLY_SOURCES),
        "mixing.epochsPerSource": Case(1.5, NEARLY_SOURCES | {"mixing.temperature": 100}),
        "shuffle": True,
        "format": "Parquet",
        "shardSize": "0.0001MB",
        "compression": "gzip",
        "parallelism.nodes": 2,
        "parallelism.processesPerNode": 3,
        "onBadRow": Case("Fail", {"sources": [{"uri": "pvc://desk/bad.jsonl"}], "onBadRow": "Skip"}),
        "maxBadRows": Case(2, {"sources": [{"uri": "pvc://desk/bad.jsonl"}], "onBadRow": "Skip"}),
    },
    "TokenizerJob": {
        "dataset.train[].format": "Text",
        "dataset.train[].columns.text": "other",
        "dataset.train[].encoding": "gb18030",
        **bad_rows("dataset", "train"),
        "train.vocabSize": 400,
        "train.characterCoverage": 0.99,
        "train.inputSentenceSize": 5000,
        "merge.maxSize": 4096,
        "compareWith[].name": Case("b", {"compareWith": [{"name": "a", "uri": "pvc://desk/sp"}]}),
    },
    "PretrainJob": {
        **MODEL,
        **{name: Case(value, {"trainable": "LoRA"}) for name, value in LORA.items()},
        **LOOP,
        "init.overrides": Case(
            {"num_hidden_layers": 3},
            {"model": None, "init": {"config": {"uri": "pvc://desk/base"}}, "tokenizer": {"uri": "pvc://desk/base"}},
        ),
        "dataset.train[].format": "Text",
        "dataset.train[].columns.text": "other",
        "dataset.train[].encoding": "gb18030",
        "dataset.validation[].format": Case("Text", {"dataset.validation": [{"uri": "pvc://desk/held.jsonl"}]}),
        "dataset.validation[].columns.text": Case("other", {"dataset.validation": [{"uri": "pvc://desk/held.jsonl"}]}),
        "dataset.validation[].encoding": Case("gb18030", {"dataset.validation": [{"uri": "pvc://desk/held.jsonl"}]}),
        "dataset.validationSplit": 0.4,
        **SHARES,
        "dataset.maxEvalTokens": 10,
        **bad_rows("dataset", "train"),
        "dataset.streaming": Case(True, {"training.maxSteps": 4}),
        "trainable": "Embeddings",
        "load.bits": Case(8, {"trainable": "LoRA", "load": {"bits": 4}}),
        "training.blockSize": 64,
    },
    "SFTJob": {
        **MODEL,
        **LORA,
        **LOOP,
        **{f"dataset.train[].{name}": value for name, value in CONVERSATIONS.items()},
        **{
            f"dataset.validation[].{name}": Case(value, {"dataset.validation": [{"uri": "pvc://desk/more.json"}]})
            for name, value in CONVERSATIONS.items()
        },
        "dataset.validationSplit": 0.4,
        **SHARES,
        "dataset.maxEvalTokens": Case(100, {"dataset.validationSplit": 0.4}),
        "dataset.overlong": Case(
            "TruncateHistory", {"dataset.train": [{"uri": "pvc://desk/talks.json"}], "training.sequenceLength": 64}
        ),
        "dataset.packing": False,
        **bad_rows("dataset", "train"),
        "dtype": Case("float16", {"merge": True}),
        "maxShardSize": Case("1GB", {"merge": True}),
        "dataset.trainOnPrompt": True,
        "dataset.systemPrompt": "你是诗人。",
        "template": "FromModel",
        "method": "Full",
        "load.bits": Case(8, {"method": "QLoRA", "load": {"bits": 4}}),
        "training.sequenceLength": 64,
        "training.neftuneAlpha": 5,
        "merge": True,
    },
    "MergeJob": {
        **MODEL,
        "adapters[].weight": 0.5,
        "dtype": "float16",
        "maxShardSize": "1GB",
        "maxLogitDifference": 0.1,
    },
    "QuantizeJob": {
        **MODEL,
        "format": "GGUF",
        "gguf.type": Case("F16", {"format": "GGUF", "groupSize": None}),
        "gguf.minEqualRows": Case(0.5, {"format": "GGUF", "groupSize": None}),
        "bits": 8,
        "groupSize": -1,
        "sym": False,
        "descAct": True,
        "actGroupAware": False,
        "dampPercent": 0.1,
        "trueSequential": False,
        **{f"calibration.train[].{name}": value for name, value in CONVERSATIONS.items()},
        "calibration.samples": 3,
        "calibration.sequenceLength": Case(64, {"calibration.train": [{"uri": "pvc://desk/talks.json"}]}),
        "calibration.minTokens": 40,
        "calibration.systemPrompt": "你是诗人。",
        "calibration.seed": 7,
        **bad_rows("calibration", "train"),
        **{
            f"evaluation.validation[].{name}": Case(value, {"evaluation.validation": [{"uri": "pvc://desk/more.json"}]})
            for name, value in CONVERSATIONS.items()
        },
        "evaluation.samples": 1,
        "evaluation.answers": 1,
        "evaluation.maxNewTokens": 7,
        "template": "FromModel",
        "maxPerplexityIncrease": 0.01,
        "minStopRate": 0.9,
        "minTokenAgreement": 0.9,
        "maxMeanDivergence": 0.001,
    },
    "EvaluationJob": {
        "models[].name": "b",
        "models[].model.ropeScaling.type": Case("dynamic", {"models[].model.ropeScaling": {"factor": 2}}),
        "models[].model.ropeScaling.factor": Case(4, {"models[].model.ropeScaling": {"factor": 2}}),
        **endpoint("models[].endpoint", SERVED),
        "models[].load.bits": Case(8, {"models[].load": {"bits": 4}}),
        "models[].template": "FromModel",
        **{f"dataset.validation[].{name}": value for name, value in CONVERSATIONS.items()},
        "dataset.sequenceLength": 32,
        "dataset.samples": 3,
        **bad_rows("dataset", "validation"),
        "dataset.systemPrompt": "你是诗人。",
        "prompts.preset": Case("zh", {"prompts": {"file": {"uri": "pvc://desk/questions.jsonl"}}}),
        "prompts.categories": ["山"],
        "prompts.limit": 2,
        "prompts.heldOut": Case(3, {"prompts": {"heldOut": 2}}),
        "original": Case("b", {"models": TWO_MODELS, "original": "a"}),
        **endpoint("judge.endpoint", JUDGED),
        "judge.against": Case("b", JUDGED),
        "judge.maxNewTokens": Case(64, JUDGED),
        "systemPrompt": "你是诗人。",
        "systemPromptPreset": "llama2-zh",
        "generation.temperature": 0.5,
        "generation.topP": Case(0.5, {"generation.temperature": 0.7}),
        "generation.topK": Case(7, {"generation.temperature": 0.7}),
        "generation.repetitionPenalty": 1.2,
        "generation.maxNewTokens": 7,
        "generation.batchSize": 2,
        "generation.seed": Case(7, {"generation.temperature": 0.7}),
        "tasks[].name": Case("second", {"tasks": [{"name": "first"}]}),
        "tasks[].numFewshot": Case(3, {"tasks": [{"name": "first"}]}),
        "tasks[].limit": Case(3, {"tasks": [{"name": "first"}]}),
        "gates[].metric": Case("stopRate", {"gates": [{"metric": "tokenAccuracy", "model": "a", "min": 0.4}]}),
        "gates[].model": Case("nobody", {"gates": [{"metric": "tokenAccuracy", "model": "a", "min": 0.4}]}),
        "gates[].min": Case(0.6, {"gates": [{"metric": "tokenAccuracy", "model": "a", "min": 0.4}]}),
        "gates[].max": Case(0.4, {"gates": [{"metric": "tokenAccuracy", "model": "a", "max": 0.6}]}),
    },
    "ChatDeployment": {
        **MODEL,
        "adapters[].name": Case("libai", {"adapters": [{"uri": "pvc://desk/adapter"}]}),
        "adapterSelector.matchLabels": Case({"team": "poetry"}, {"adapterSelector": {}}),
        "adapterSelector.matchExpressions[].key": Case("tier", SELECTED),
        "adapterSelector.matchExpressions[].operator": Case("NotIn", SELECTED),
        "adapterSelector.matchExpressions[].values": Case(["prose"], SELECTED),
        "load.bits": Case(8, {"load": {"bits": 4}}),
        "template": "ChatML",
        "engine": "vLLM",
        "vllm.toolCallParser": Case("hermes", {"engine": "vLLM"}),
        "endpoint.url": Case(
            "http://two/v1", {"model": None, "engine": "External", "endpoint": {"url": "http://one/v1"}}
        ),
        "endpoint.model": Case("poet", {"model": None, "engine": "External", "endpoint": {"url": "http://one/v1"}}),
        "endpoint.secretRef.name": Case(
            "key", {"model": None, "engine": "External", "endpoint": {"url": "http://one/v1"}}
        ),
        "endpoint.secretRef.key": Case(
            "other",
            {"model": None, "engine": "External", "endpoint": {"url": "http://one/v1", "secretRef": {"name": "key"}}},
        ),
        "generation.temperature": 0.5,
        "generation.topP": 0.5,
        "generation.topK": 7,
        "generation.repetitionPenalty": 1.2,
        "generation.maxNewTokens": 7,
        "systemPrompt": "你是诗人。",
        "limits.maxInputTokens": 100,
        "limits.maxQueue": 3,
        "limits.maxBatch": 3,
        "limits.requestTimeoutSeconds": 30,
        "auth.secretName": "login",
        "page.title": "诗",
        "page.historyTurns": 3,
        "page.votes": "pvc://desk/votes",
        "page.image": "mine:2",
        "page.replicas": 2,
        **{
            f"page.{name}": Case(value, {"page.replicas": 2})
            for name, value in POD.items()
            if name.startswith(("nodeSelector", "tolerations"))
        },
        "page.resources.limits": {"memory": "3Gi"},
        "page.resources.requests": {"memory": "3Gi"},
        "gates[].from.kind": Case("SFTJob", {"gates": [{"from": {"kind": "EvaluationJob", "name": "report"}}]}),
        "gates[].from.name": Case("other", {"gates": [{"from": {"kind": "EvaluationJob", "name": "report"}}]}),
        "updatePolicy": "Manual",
        "updateStrategy": "Recreate",
        "replicas": 2,
        "startupTimeoutSeconds": 60,
        "service.type": "NodePort",
        "service.annotations": {"a": "b"},
        "podDisruptionBudget.minAvailable": 1,
        "podDisruptionBudget.maxUnavailable": 1,
        "httpRoute.parentRefs[].name": "gateway",
        "httpRoute.parentRefs[].namespace": Case("edge", {"httpRoute": {"parentRefs": [{"name": "gateway"}]}}),
        "httpRoute.parentRefs[].sectionName": Case("https", {"httpRoute": {"parentRefs": [{"name": "gateway"}]}}),
        "hosts": ["poet.example"],
        "httpRoute.hostnames": Case(["poet.example"], {"httpRoute": {"parentRefs": [{"name": "gateway"}]}}),
    },
}
COMPARED = {"compareWith": {"model": {"uri": "pvc://desk/other"}}}
ELSEWHERE = {
    "model": None,
    "engine": "External",
    "endpoint": {"url": "http://one/v1"},
    "compareWith": {"endpoint": {"url": "http://two/v1"}},
}
TABLES["ChatDeployment"] |= {
    "compareWith.name": Case("second", COMPARED),
    "compareWith.model.ropeScaling.type": Case(
        "yarn", {"compareWith": {"model": {"uri": "pvc://desk/other", "ropeScaling": {"factor": 2}}}}
    ),
    "compareWith.model.ropeScaling.factor": Case(
        4, {"compareWith": {"model": {"uri": "pvc://desk/other", "ropeScaling": {"factor": 2}}}}
    ),
    "compareWith.load.bits": Case(8, {"compareWith": {"model": {"uri": "pvc://desk/other"}, "load": {"bits": 4}}}),
    "compareWith.template": Case("ChatML", COMPARED),
    "compareWith.endpoint.url": Case("http://three/v1", ELSEWHERE),
    "compareWith.endpoint.model": Case("poet", ELSEWHERE),
    "compareWith.endpoint.secretRef.name": Case("key", ELSEWHERE),
    "compareWith.endpoint.secretRef.key": Case(
        "other", {**ELSEWHERE, "compareWith": {"endpoint": {"url": "http://two/v1", "secretRef": {"name": "key"}}}}
    ),
}

HELD = {"dataset.validation": [{"uri": "pvc://desk/held.jsonl"}]}
SOURCES: dict[str, dict[str, tuple[str, dict[str, Any]]]] = {
    "DatasetJob": {
        "sources[]": ("raw.jsonl", {}),
        "decontaminate.against[]": ("nearly.jsonl", MEASURED),
        "deduplicate.against[]": ("raw.jsonl", EARLIER),
        "tokenizer": ("sp", {"tokenizer": {"uri": "pvc://desk/sp"}}),
        "clean.rulesFile": ("rules.yaml", {"clean.rulesFile": {"uri": "pvc://desk/rules.yaml"}}),
    },
    "TokenizerJob": {
        "base": ("sp", {}),
        "dataset.train[]": ("corpus", {}),
        "compareWith[]": ("sp", {"compareWith": [{"name": "a", "uri": "pvc://desk/sp"}]}),
    },
    "PretrainJob": {
        "model": ("base", {}),
        "init.config": (
            "base",
            {"model": None, "init": {"config": {"uri": "pvc://desk/base"}}, "tokenizer": {"uri": "pvc://desk/base"}},
        ),
        "tokenizer": ("other", {"tokenizer": {"uri": "pvc://desk/other"}}),
        "dataset.train[]": ("corpus", {}),
        "dataset.validation[]": ("held.jsonl", HELD),
    },
    "SFTJob": {
        "model": ("base", {}),
        "adapter": ("adapter", {"adapter": {"uri": "pvc://desk/adapter"}}),
        "dataset.train[]": ("rows.json", {}),
        "dataset.validation[]": ("more.json", {"dataset.validation": [{"uri": "pvc://desk/more.json"}]}),
        "templateFile": ("template.jinja", {"template": None, "templateFile": {"uri": "pvc://desk/template.jinja"}}),
    },
    "MergeJob": {"model": ("base", {}), "adapters[]": ("adapter", {})},
    "QuantizeJob": {
        "model": ("base", {}),
        "calibration.train[]": ("rows.json", {}),
        "evaluation.validation[]": ("more.json", {"evaluation.validation": [{"uri": "pvc://desk/more.json"}]}),
        "templateFile": ("template.jinja", {"template": None, "templateFile": {"uri": "pvc://desk/template.jinja"}}),
    },
    "EvaluationJob": {
        "models[].model": ("base", {}),
        "models[].adapters[]": ("adapter", {"models[].adapters": [{"uri": "pvc://desk/adapter"}]}),
        "models[].templateFile": (
            "template.jinja",
            {"models[].template": None, "models[].templateFile": {"uri": "pvc://desk/template.jinja"}},
        ),
        "dataset.validation[]": ("rows.json", {}),
        "prompts.file": ("questions.jsonl", {}),
        "taskFiles": ("tasks", {"tasks": [{"name": "first"}], "taskFiles": {"uri": "pvc://desk/tasks"}}),
    },
    "ChatDeployment": {
        "model": ("base", {}),
        "adapters[]": ("adapter", {"adapters": [{"uri": "pvc://desk/adapter"}]}),
        "templateFile": ("template.jinja", {"templateFile": {"uri": "pvc://desk/template.jinja"}}),
        "compareWith.model": ("other", COMPARED),
        "compareWith.adapters[]": (
            "adapter",
            {"compareWith": {"model": {"uri": "pvc://desk/other"}, "adapters": [{"uri": "pvc://desk/adapter"}]}},
        ),
        "compareWith.templateFile": (
            "template.jinja",
            {
                "compareWith": {
                    "model": {"uri": "pvc://desk/other"},
                    "templateFile": {"uri": "pvc://desk/template.jinja"},
                }
            },
        ),
    },
}
"""Where each source lies, and what a spec needs that has it."""


def of_sources(kind: str) -> dict[str, Case]:
    """A source is looked for elsewhere, read from another job, and with other credentials."""
    found = {}
    for path, (place, given) in SOURCES[kind].items():
        found[f"{path}.uri"] = Case(f"pvc://other/{place}", given)
        found[f"{path}.secretRef.name"] = Case("credentials", given)
        made = {**given, f"{path}.uri": None, f"{path}.from": {"kind": "MergeJob", "name": "one"}}
        found[f"{path}.from.kind"] = Case("SFTJob", made)
        found[f"{path}.from.name"] = Case("two", made)
    return found


SPECS: dict[str, dict[str, Any]] = {
    "DatasetJob": {"sources": [{"uri": "pvc://desk/raw.jsonl"}]},
    "TokenizerJob": {"base": {"uri": "pvc://desk/sp"}, "dataset": {"train": [{"uri": "pvc://desk/corpus"}]}},
    "PretrainJob": {
        "model": {"uri": "pvc://desk/base"},
        "dataset": {"train": [{"uri": "pvc://desk/corpus"}]},
        "training": {"blockSize": 128},
    },
    "SFTJob": {
        "model": {"uri": "pvc://desk/base"},
        "dataset": {"train": [{"uri": "pvc://desk/rows.json"}]},
        "template": "HumanAssistant",
        "training": {"sequenceLength": 128},
    },
    "MergeJob": {"model": {"uri": "pvc://desk/base"}, "adapters": [{"uri": "pvc://desk/adapter"}]},
    "QuantizeJob": {
        "model": {"uri": "pvc://desk/base"},
        "groupSize": 32,
        "template": "HumanAssistant",
        "calibration": {"train": [{"uri": "pvc://desk/rows.json"}], "sequenceLength": 128},
        "evaluation": {"answers": 2},
    },
    "EvaluationJob": {
        "models": [{"name": "a", "model": {"uri": "pvc://desk/base"}, "template": "HumanAssistant"}],
        "dataset": {"validation": [{"uri": "pvc://desk/rows.json"}], "sequenceLength": 128},
        "prompts": {"file": {"uri": "pvc://desk/questions.jsonl"}},
    },
    "ChatDeployment": {"model": {"uri": "pvc://desk/base"}},
}
for kind, spec in SPECS.items():
    if kind != "ChatDeployment":
        spec["output"] = {"uri": "pvc://desk/out"}


def cases(kind: str) -> dict[str, Case]:
    """For every field of the kind."""
    table = EVERYWHERE | ({} if kind == "ChatDeployment" else JOB) | TABLES[kind] | of_sources(kind)
    table |= PUBLISHED if kind in ("PretrainJob", "SFTJob", "MergeJob", "QuantizeJob") else {}
    return {path: case if isinstance(case, Case) else Case(case) for path, case in table.items()}


def fields(kind: str) -> list[str]:
    spec = KINDS[kind].model_fields["spec"].annotation
    assert isinstance(spec, type)
    return list(leaves(spec))


REFUSED: dict[str, frozenset[str]] = {
    "DatasetJob": frozenset(
        {
            "sources[].encoding",
            "sources[].conversations.format",
            "deduplicate.against[].conversations.format",
            "deduplicate.against[].encoding",
            "onBadRow",
            "maxBadRows",
        }
    ),
    "TokenizerJob": frozenset({"dataset.train[].encoding", *bad_rows("dataset", "train")}),
    "PretrainJob": frozenset(
        {
            "dataset.train[].encoding",
            "dataset.validation[].encoding",
            *bad_rows("dataset", "train"),
        }
    ),
    "SFTJob": frozenset({"dataset.train[].format", "dataset.validation[].format", *bad_rows("dataset", "train")}),
    "QuantizeJob": frozenset(
        {"format", "calibration.train[].format", "evaluation.validation[].format", *bad_rows("calibration", "train")}
    ),
    "EvaluationJob": frozenset(
        {"dataset.validation[].format", "prompts.preset", "gates[].model", *bad_rows("dataset", "validation")}
    ),
}
"""Fields whose other value cannot be honoured here, and is refused: where nothing else was to be shown, that is what they do."""

ADAPTED = {"adapter": {"uri": "pvc://desk/adapter"}}
OWN = {"deepspeed": {"config": {"zero_optimization": {"stage": 2}}}}
TOGETHER = [
    ("SFTJob", "lora.dropout", Case(0.3, ADAPTED), False),
    ("SFTJob", "lora.rank", Case(16, ADAPTED), True),
    ("SFTJob", "lora.useRslora", Case(True, ADAPTED), True),
    ("SFTJob", "lora.rank", Case(16, {"method": "Full"}), True),
    ("PretrainJob", "lora.alpha", Case(16, {"trainable": "Embeddings"}), True),
    ("SFTJob", "deepspeed.offload", Case("CPU", OWN), True),
    ("SFTJob", "training.evalSteps", Case(3, {"dataset.validationSplit": 0}), True),
    ("PretrainJob", "training.evalSteps", Case(3, {"dataset.validationSplit": 0}), True),
    ("SFTJob", "training.warmupRatio", Case(0.5, {"training.scheduler": "constant"}), True),
    ("SFTJob", "training.attention", Case("flash_attention_2", {"training.precision": "fp32"}), True),
    ("EvaluationJob", "generation.topK", Case(7), True),
    ("EvaluationJob", "taskFiles.uri", Case("pvc://desk/tasks"), True),
    ("ChatDeployment", "limits.maxQueue", Case(3, {"engine": "vLLM"}), False),
    ("ChatDeployment", "limits.requestTimeoutSeconds", Case(3, {"engine": "vLLM"}), False),
    ("ChatDeployment", "systemPrompt", Case("你是诗人。", {"engine": "vLLM"}), False),
    ("ChatDeployment", "limits.maxBatch", Case(3, {"engine": "vLLM"}), False),
    ("ChatDeployment", "generation.topK", Case(3, ELSEWHERE), True),
]
"""Fields beside others that could make them say nothing: kind, field, its case, and whether it is refused."""
