"""One table of cases, put to the models in Python and to the CRD on a real API server: both say the same, in the same words."""

from __future__ import annotations

import copy
import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from alpaca_operator.api import KINDS, PLURALS
from alpaca_operator.api.crd import crd
from alpaca_operator.api.model import IS_PLACE, Spec
from alpaca_operator.api.publication import IS_PUSHED_TO
from alpaca_operator.api.resource import NODES_NAME_LIMIT, NODES_NAME_RULE, Job
from alpaca_operator.api.rules import Rule
from tests.api.minimal import MINIMAL
from tests.cluster.bed.cache import BedError
from tests.cluster.bed.controlplane import ControlPlane

TWO = {"models": [{"name": "base", "model": {"uri": "a"}}, {"name": "tuned", "model": {"uri": "b"}}]}


def of(kind: str, cases: list[Any]) -> list[Any]:
    """The cases of one kind: each spec is laid over the kind's smallest; None takes a field away."""
    return [pytest.param(kind, *case.values, id=f"{kind}: {case.id}") for case in cases]


BROKEN = (
    of(
        "SFTJob",
        [
            pytest.param(
                {"model": {}}, "an input needs uri or from, and not both: name one", id="an input that names nothing"
            ),
            pytest.param(
                {"model": {"uri": "pvc://models/base", "from": {"kind": "PretrainJob", "name": "base"}}},
                "an input needs uri or from, and not both: name one",
                id="an input that names two",
            ),
            pytest.param(
                {"model": {"uri": "gs://bucket/base"}},
                "a place is hf://org/name, ms://org/name, pvc://claim/path, s3://bucket/key, oci://registry/repository:tag, file:///path or a path: copy what lies elsewhere to one of these",
                id="a place that nobody reads",
            ),
            pytest.param(
                {"output": {"uri": "s3://"}},
                "a place is hf://org/name, ms://org/name, pvc://claim/path, s3://bucket/key, oci://registry/repository:tag, file:///path or a path: copy what lies elsewhere to one of these",
                id="a place that is a scheme alone",
            ),
            pytest.param(
                {"output": {"uri": "hf://me/poet"}},
                "output.uri cannot be hf://, ms:// or oci://: write to pvc://, s3:// or a path, and name the other in publish, which pushes from there",
                id="an output on a hub",
            ),
            pytest.param(
                {"publish": [{"uri": "s3://bucket/poet"}]},
                "publish[].uri is a place that takes a model: write hf://org/name, hf://org/name@branch, ms://org/name or oci://registry/repository:tag",
                id="published where nobody looks for models",
            ),
            pytest.param(
                {"publish": [{"uri": "oci://registry.example/poet:v1", "private": True}]},
                "private is of a hub: who may pull from a registry is set there; remove private",
                id="private in a registry",
            ),
            pytest.param(
                {"method": "QLoRA", "deepspeed": {"preset": "Zero3"}},
                "QLoRA does not run under ZeRO-3: set deepspeed.preset to Zero2, or method to LoRA",
                id="QLoRA under ZeRO-3",
            ),
            pytest.param(
                {"dataset": {"train": [{"uri": "pvc://data/rows.jsonl"}], "maxBadRows": 5}},
                "maxBadRows is only read with onBadRow Skip: set onBadRow to Skip, or remove maxBadRows",
                id="a bound of bad rows where none is borne",
            ),
            pytest.param(
                {"load": {"bits": 8}},
                "load.bits is only read with method QLoRA: set method to QLoRA, or remove load",
                id="bits without QLoRA",
            ),
            pytest.param(
                {"adapter": {"uri": "pvc://models/a"}, "method": "Full"},
                "adapter goes on training an adapter, which method Full does not: set method to LoRA or QLoRA, or remove adapter",
                id="an adapter for full fine-tuning",
            ),
            pytest.param(
                {"merge": True, "method": "Full"},
                "merge has nothing to merge with method Full: remove merge, the output is a whole model already",
                id="nothing to merge",
            ),
            pytest.param(
                {"dtype": "float16"},
                "dtype and maxShardSize are of a whole model: set merge to true, or remove them",
                id="a dtype for a whole model, and none is asked for",
            ),
            pytest.param(
                {"training": {"earlyStoppingPatience": 3}, "dataset": {"train": [{"uri": "a"}], "validationSplit": 0}},
                "training.earlyStoppingPatience needs validation rows: set dataset.validationSplit above 0, or dataset.validation",
                id="early stopping without rows to validate with",
            ),
            pytest.param(
                {"method": "Full", "lora": {"rank": 16}},
                "lora is an adapter's, which method Full does not train: remove lora, or set method to LoRA",
                id="an adapter's rank where none is trained",
            ),
            pytest.param(
                {"training": {"scheduler": "constant", "warmupRatio": 0.1}},
                "training.scheduler constant has no warm-up: remove warmupRatio, or set scheduler to constant_with_warmup",
                id="a warm-up to a constant rate",
            ),
            pytest.param(
                {"deepspeed": {"offload": "CPU", "config": {"zero_optimization": {"stage": 2}}}},
                "deepspeed.offload is only read with preset: name offload_optimizer and offload_param in config, or remove offload",
                id="an offload beside a configuration of one's own",
            ),
            pytest.param(
                {"training": {"evalSteps": 10}, "dataset": {"train": [{"uri": "a"}], "validationSplit": 0}},
                "training.evalSteps needs something to evaluate: set dataset.validationSplit above 0, or dataset.validation",
                id="evaluations of nothing",
            ),
            pytest.param(
                {"template": "Llama2", "templateFile": {"uri": "pvc://data/own.jinja"}},
                "template and templateFile both name a template: remove one",
                id="two templates",
            ),
            pytest.param(
                {"deepspeed": {}},
                "deepspeed needs either preset (Zero2 or Zero3) or config, not both: remove one",
                id="DeepSpeed without a word on how",
            ),
            pytest.param(
                {"deepspeed": {"preset": "Zero2", "config": {"zero_optimization": {"stage": 2}}}},
                "deepspeed needs either preset (Zero2 or Zero3) or config, not both: remove one",
                id="DeepSpeed told twice",
            ),
            pytest.param(
                {"parallelism": {"nodes": 2, "minNodes": 4}},
                "parallelism.minNodes is above parallelism.nodes: lower it, or raise nodes",
                id="at least more nodes than are asked for",
            ),
            pytest.param(
                {"parallelism": {"nodes": 2, "rescaleAfterSeconds": 60}},
                "parallelism.rescaleAfterSeconds is only read with minNodes: set minNodes, or remove rescaleAfterSeconds",
                id="a time after which nothing happens",
            ),
            pytest.param(
                {"parallelism": {"nodes": 4, "minNodes": 3}, "training": {"gradientAccumulation": 4}},
                "training.gradientAccumulation × parallelism.nodes has to be a multiple of parallelism.minNodes, so that fewer machines make the "
                "same steps: change one of them",
                id="a step that fewer nodes cannot share",
            ),
        ],
    )
    + of(
        "PretrainJob",
        [
            pytest.param(
                {"parallelism": {"nodes": 2, "minNodes": 3}, "training": {"gradientAccumulation": 3}},
                "parallelism.minNodes is above parallelism.nodes: lower it, or raise nodes",
                id="at least more nodes than are asked for",
            ),
            pytest.param(
                {"parallelism": {"nodes": 8, "minNodes": 5}},
                "training.gradientAccumulation × parallelism.nodes has to be a multiple of parallelism.minNodes, so that fewer machines make the "
                "same steps: change one of them",
                id="a step that fewer nodes cannot share",
            ),
            pytest.param(
                {"init": {"config": {"uri": "pvc://models/base"}}, "tokenizer": {"uri": "a"}},
                "a PretrainJob needs either model (go on with a base) or init (start from scratch), not both",
                id="a base and a start from scratch",
            ),
            pytest.param(
                {"model": None},
                "a PretrainJob needs either model (go on with a base) or init (start from scratch), not both",
                id="nothing to start from",
            ),
            pytest.param(
                {"model": None, "init": {"config": {"uri": "pvc://models/base"}}},
                "init starts from scratch and has no tokenizer of its own: set tokenizer",
                id="from scratch without a tokenizer",
            ),
            pytest.param(
                {
                    "model": None,
                    "init": {"config": {"uri": "pvc://models/base"}},
                    "tokenizer": {"uri": "a"},
                    "trainable": "LoRA",
                },
                "init starts from random weights, which trainable Embeddings or LoRA would leave random: set trainable to Full",
                id="an adapter on random weights",
            ),
            pytest.param(
                {"lora": {"targetModules": ["q_proj"]}},
                "lora is an adapter's, and trainable says that none is trained: remove lora, or set trainable to LoRA",
                id="an adapter's layers where none is trained",
            ),
            pytest.param(
                {"training": {"evalSteps": 10}, "dataset": {"train": [{"uri": "a"}], "validationSplit": 0}},
                "training.evalSteps needs something to evaluate: set dataset.validationSplit above 0, or dataset.validation",
                id="evaluations of nothing",
            ),
            pytest.param(
                {"load": {"bits": 8}},
                "load.bits freezes the base, so it needs trainable LoRA: set trainable to LoRA, or remove load",
                id="a frozen base that is trained",
            ),
            pytest.param(
                {"load": {"bits": 4}, "trainable": "LoRA", "deepspeed": {"preset": "Zero3"}},
                "a base in 4 or 8 bits does not run under ZeRO-3: set deepspeed.preset to Zero2, or remove load",
                id="four bits under ZeRO-3",
            ),
            pytest.param(
                {"dataset": {"train": [{"uri": "a"}], "streaming": True}},
                "dataset.streaming does not know how long the corpus is: set training.maxSteps",
                id="a stream without an end",
            ),
            pytest.param(
                {
                    "dataset": {"train": [{"uri": "a"}, {"uri": "b", "maxRows": 5}], "streaming": True},
                    "training": {"maxSteps": 10},
                },
                "streaming reads each source once, from its start: remove weight, maxRows and maxTokens of dataset.train, or set streaming to "
                "false",
                id="a stream of which a source is weighed",
            ),
            pytest.param(
                {"training": {"earlyStoppingPatience": 3}, "dataset": {"train": [{"uri": "a"}], "validationSplit": 0}},
                "training.earlyStoppingPatience needs validation text: set dataset.validationSplit above 0, or dataset.validation",
                id="early stopping without text to validate with",
            ),
            pytest.param(
                {"tokenizer": {}},
                "an input needs uri or from, and not both: name one",
                id="a tokenizer that is nowhere",
            ),
            pytest.param(
                {"deepspeed": {}},
                "deepspeed needs either preset (Zero2 or Zero3) or config, not both: remove one",
                id="DeepSpeed without a word on how",
            ),
        ],
    )
    + of(
        "MergeJob",
        [
            pytest.param(
                {"adapters": [{"uri": "a"}, {"weight": 0.5}]},
                "an input needs uri or from, and not both: name one",
                id="an adapter that is nowhere",
            ),
        ],
    )
    + of(
        "DatasetJob",
        [
            pytest.param(
                {"clean": {"rules": [{"name": "a", "pattern": "b", "action": "DropLine", "replacement": "c"}]}},
                "replacement is only read with action Replace: remove one of them",
                id="a replacement of a line that is dropped",
            ),
            pytest.param(
                {"split": {"validationShare": 0.1, "validationDocuments": 10}},
                "validationShare and validationDocuments both say how much is set aside: remove one",
                id="two sizes of a split",
            ),
            pytest.param(
                {"filters": {"minCharacters": 100, "maxCharacters": 99}},
                "minCharacters is above maxCharacters, and no document would be left: lower it, or raise maxCharacters",
                id="a length that no document has",
            ),
            pytest.param(
                {"deduplicate": {"exact": "None", "against": [{"uri": "a"}]}},
                "against is compared by exact or near: set one of them, or remove against",
                id="an earlier corpus that is not compared with",
            ),
            pytest.param(
                {"sources": [{"uri": "a", "conversations": {"format": "Alpaca"}}]},
                "conversations is only read with content Conversations: set it, or remove conversations",
                id="a layout of conversations for text",
            ),
            pytest.param(
                {"deduplicate": {"against": [{"uri": "a", "conversations": {}}]}},
                "conversations is only read with content Conversations: set it, or remove conversations",
                id="a layout of earlier conversations for text",
            ),
            pytest.param(
                {"content": "Conversations", "sources": [{"uri": "a", "format": "EPUB"}]},
                "conversations are rows: set format to one of Auto, JSONL, JSON, CSV, Parquet, Arrow, and conversations.columns in place of columns",
                id="conversations in a book",
            ),
            pytest.param(
                {"content": "Conversations", "deduplicate": {"against": [{"uri": "a", "columns": {"text": "b"}}]}},
                "conversations are rows: set format to one of Auto, JSONL, JSON, CSV, Parquet, Arrow, and conversations.columns in place of columns",
                id="conversations in a column of text",
            ),
            pytest.param(
                {"content": "Conversations", "deduplicate": {"exact": "Paragraph"}},
                "deduplicate.exact Paragraph takes lines out of text: with content Conversations set it to Document",
                id="paragraphs of conversations",
            ),
            pytest.param(
                {"mixing": {"epochsPerSource": 3}},
                "epochsPerSource is only read with temperature: set it, or lower the weight of sources",
                id="a bound of repetition without a temperature",
            ),
            pytest.param(
                {"sources": [{"uri": "a", "weight": 2}], "mixing": {"temperature": 3}},
                "mixing.temperature and the weight of a source both say how often it is repeated: remove one of them",
                id="a weight and a temperature",
            ),
        ],
    )
    + of(
        "TokenizerJob",
        [
            pytest.param(
                {"base": {"uri": "a", "from": {"kind": "TokenizerJob", "name": "b"}}},
                "an input needs uri or from, and not both: name one",
                id="two bases",
            ),
            pytest.param(
                {"output": {"uri": "hf://me/vocabulary"}},
                "output.uri cannot be hf://, ms:// or oci://: write to pvc://, s3:// or a path, and name the other in publish, which pushes from there",
                id="an output on a hub",
            ),
        ],
    )
    + of(
        "QuantizeJob",
        [
            pytest.param(
                {"descAct": True, "actGroupAware": True},
                "descAct and actGroupAware both order the columns: remove one of them",
                id="two orders of the columns",
            ),
            pytest.param(
                {"groupSize": -1, "actGroupAware": True},
                "actGroupAware orders columns within their groups, and groupSize -1 has none: remove actGroupAware",
                id="an order within groups that are not there",
            ),
            pytest.param(
                {"format": "GGUF", "bits": 8},
                "bits is GPTQ's, and format is not GPTQ: remove bits, or set format to GPTQ",
                id="bits of a file that GPTQ does not make",
            ),
            pytest.param(
                {"format": "GGUF", "groupSize": 32},
                "groupSize is GPTQ's, and format is not GPTQ: remove groupSize, or set format to GPTQ",
                id="groupSize of a file that GPTQ does not make",
            ),
            pytest.param(
                {"format": "GGUF", "sym": False},
                "sym is GPTQ's, and format is not GPTQ: remove sym, or set format to GPTQ",
                id="sym of a file that GPTQ does not make",
            ),
            pytest.param(
                {"format": "GGUF", "descAct": True},
                "descAct is GPTQ's, and format is not GPTQ: remove descAct, or set format to GPTQ",
                id="descAct of a file that GPTQ does not make",
            ),
            pytest.param(
                {"format": "GGUF", "actGroupAware": True},
                "actGroupAware is GPTQ's, and format is not GPTQ: remove actGroupAware, or set format to GPTQ",
                id="actGroupAware of a file that GPTQ does not make",
            ),
            pytest.param(
                {"format": "GGUF", "dampPercent": 0.1},
                "dampPercent is GPTQ's, and format is not GPTQ: remove dampPercent, or set format to GPTQ",
                id="dampPercent of a file that GPTQ does not make",
            ),
            pytest.param(
                {"format": "GGUF", "trueSequential": False},
                "trueSequential is GPTQ's, and format is not GPTQ: remove trueSequential, or set format to GPTQ",
                id="trueSequential of a file that GPTQ does not make",
            ),
            pytest.param(
                {"gguf": {"type": "F16"}},
                "gguf is of a GGUF file, and format is not GGUF: remove gguf, or set format to GGUF",
                id="a type of a file that is not made",
            ),
            pytest.param(
                {"template": "Llama2", "templateFile": {"uri": "pvc://data/own.jinja"}},
                "template and templateFile both name a template: remove one",
                id="two templates",
            ),
            pytest.param(
                {"evaluation": {"validation": [{"format": "Alpaca"}]}},
                "an input needs uri or from, and not both: name one",
                id="rows that are nowhere",
            ),
            pytest.param(
                {"minStopRate": 0.9, "evaluation": {"answers": 0}},
                "minStopRate needs answers: set evaluation.answers above 0, or remove minStopRate",
                id="a bound on answers that nobody gives",
            ),
        ],
    )
    + of(
        "EvaluationJob",
        [
            pytest.param(
                {"generation": {"topP": 0.5}},
                "generation.topP, topK and seed are of a draw, and temperature 0 draws nothing: remove them, or set temperature above 0",
                id="a draw at temperature 0",
            ),
            pytest.param(
                {"prompts": None, "tasks": [{"name": "cmmlu"}], "systemPrompt": "你是诗人。"},
                "systemPrompt and systemPromptPreset are put before questions, and there are none: set prompts, or dataset.systemPrompt for rows",
                id="a system prompt before no question",
            ),
            pytest.param(
                {"taskFiles": {"uri": "pvc://data/tasks"}},
                "taskFiles holds tasks that nothing runs: name them in tasks",
                id="files of tasks that nothing runs",
            ),
            pytest.param(
                {
                    "prompts": None,
                    "tasks": [{"name": "cmmlu"}],
                    "models": [{"name": "poet", "model": {"uri": "a"}, "template": "ChatML"}],
                },
                "tasks bring formats of their own, which no template changes: remove template and templateFile of models, or set dataset or prompts",
                id="a template for tasks alone",
            ),
            pytest.param(
                {"models": [{"name": "poet", "model": {}}]},
                "an input needs uri or from, and not both: name one",
                id="a model that is nowhere",
            ),
            pytest.param(
                {"models": [{"name": "poet", "model": {"uri": "a"}, "endpoint": {"url": "http://a/v1"}}]},
                "one of models needs model or endpoint, and not both: name one",
                id="a model that is here and elsewhere",
            ),
            pytest.param(
                {"models": [{"name": "poet", "endpoint": {"url": "http://a/v1"}, "template": "ChatML"}]},
                "whoever serves an endpoint sets adapters, load and template there: remove them beside endpoint",
                id="a template for what is served elsewhere",
            ),
            pytest.param(
                {
                    "prompts": None,
                    "tasks": [{"name": "cmmlu"}],
                    "models": [{"name": "poet", "endpoint": {"url": "http://a/v1"}}],
                },
                "an endpoint can only be asked questions, and there are none: set prompts, or name the model itself",
                id="tasks for what is served elsewhere",
            ),
            pytest.param(
                {"prompts": {"preset": "zh", "heldOut": 8}, "dataset": {"validation": [{"uri": "a"}]}},
                "prompts needs one of preset, file and heldOut: name one",
                id="questions from two places",
            ),
            pytest.param(
                {"prompts": {"heldOut": 8}},
                "prompts.heldOut asks conversations of dataset, and there is none: set dataset",
                id="questions of no conversation",
            ),
            pytest.param(
                {**TWO, "original": "third", "dataset": {"validation": [{"uri": "a"}]}},
                "original names no model among models that is loaded here: correct it",
                id="an original that is not there",
            ),
            pytest.param(
                {**TWO, "original": "base"},
                "original is what other models are held against, on the rows of dataset: set dataset and name another model, or remove original",
                id="an original without rows",
            ),
            pytest.param(
                {"judge": {"endpoint": {"url": "http://a/v1"}, "against": "poet"}},
                "judge compares the answers of two models: set prompts and name another model, or remove judge",
                id="a judge of one model",
            ),
            pytest.param(
                {**TWO, "judge": {"endpoint": {"url": "http://a/v1"}, "against": "third"}},
                "judge.against names a model that is not among models: correct it",
                id="a comparison with nobody",
            ),
            pytest.param(
                {"models": [{"name": "poet", "model": {"uri": "a"}, "adapters": [{"uri": "b"}, {}]}]},
                "an input needs uri or from, and not both: name one",
                id="an adapter that is nowhere, in a list of a list",
            ),
            pytest.param(
                {
                    "models": [
                        {
                            "name": "poet",
                            "model": {"uri": "a"},
                            "template": "ChatML",
                            "templateFile": {"uri": "pvc://data/own.jinja"},
                        }
                    ]
                },
                "template and templateFile both name a template: remove one",
                id="two templates for one model",
            ),
            pytest.param({"prompts": None}, "nothing is measured: give dataset, prompts or tasks", id="nothing to do"),
            pytest.param(
                {"prompts": {}}, "prompts needs one of preset, file and heldOut: name one", id="questions from nowhere"
            ),
            pytest.param(
                {"prompts": {"preset": "zh", "file": {"uri": "pvc://data/questions.csv"}}},
                "prompts needs one of preset, file and heldOut: name one",
                id="questions from two places",
            ),
            pytest.param(
                {"systemPrompt": "你是诗人。", "systemPromptPreset": "llama2-zh"},
                "systemPrompt and systemPromptPreset both name a system prompt: remove one",
                id="two system prompts",
            ),
            pytest.param(
                {"models": [{"name": "poet", "model": {"uri": uri}} for uri in ("a", "b")]},
                "two of models have the same name: give each a name of its own",
                id="two models of one name",
            ),
            pytest.param(
                {"gates": [{"metric": "perplexity", "model": "poet"}]},
                "a gate needs min or max",
                id="a gate that is always open",
            ),
            pytest.param(
                {"gates": [{"metric": "perplexity", "model": "pet", "max": 10}]},
                "a gate names a model that is not among models: correct gates[].model",
                id="a gate for a model that is not measured",
            ),
        ],
    )
)

BROKEN += of(
    "ChatDeployment",
    [
        pytest.param(
            {"template": "Llama2", "templateFile": {"uri": "pvc://data/own.jinja"}},
            "template and templateFile both name a template: remove one",
            id="two templates",
        ),
        pytest.param(
            {
                "model": None,
                "engine": "External",
                "endpoint": {"url": "http://vllm:8000/v1"},
                "limits": {"maxQueue": 3, "requestTimeoutSeconds": 60},
            },
            "engine External answers by its own settings: remove template, generation and limits (but requestTimeoutSeconds), or set engine to "
            "Auto",
            id="limits of an engine elsewhere",
        ),
        pytest.param(
            {"model": None},
            "nothing is served: set model, or engine to External and endpoint.url",
            id="nothing to serve",
        ),
        pytest.param(
            {"model": None, "engine": "External"},
            "engine External asks an API elsewhere: set endpoint.url",
            id="an API elsewhere without its address",
        ),
        pytest.param(
            {"endpoint": {"url": "http://vllm.models.svc:8000/v1"}},
            "endpoint is only read with engine External: set engine to External, or remove endpoint",
            id="an address that nobody asks",
        ),
        pytest.param(
            {"engine": "External", "endpoint": {"url": "http://vllm.models.svc:8000/v1"}},
            "engine External loads no model: remove model, adapters and load, or set engine to Auto",
            id="a model for an API elsewhere",
        ),
        pytest.param(
            {"page": {"tolerations": [{"operator": "Exists"}]}},
            "nodeSelector and tolerations of the page are of pods of its own: set page.replicas, or remove them",
            id="a place of a page within",
        ),
        pytest.param(
            {
                "model": None,
                "engine": "External",
                "endpoint": {"url": "http://vllm.models.svc:8000/v1"},
                "page": {"replicas": 2},
            },
            "with engine External the pods hold the page alone: remove page.replicas, and set replicas",
            id="pods of the page before an API elsewhere",
        ),
        pytest.param(
            {"compareWith": {"endpoint": {"url": "http://vllm.models.svc:8000/v1"}}},
            "compareWith is served as the first model is: give it endpoint with engine External, model with any other",
            id="a second model elsewhere",
        ),
        pytest.param(
            {"compareWith": {}},
            "compareWith needs model or endpoint, and not both: name one",
            id="a second model that is none",
        ),
        pytest.param(
            {"engine": "vLLM", "load": {"bits": 4}},
            "vLLM serves one model with at most one adapter that has no name, in the bits that it was saved in: remove compareWith, load and "
            "further adapters, give the adapters names, or set engine to Transformers",
            id="vLLM with fewer bits",
        ),
        pytest.param(
            {"engine": "vLLM", "adapters": [{"uri": "pvc://models/one"}, {"uri": "pvc://models/two"}]},
            "vLLM serves one model with at most one adapter that has no name, in the bits that it was saved in: remove compareWith, load and "
            "further adapters, give the adapters names, or set engine to Transformers",
            id="vLLM with two adapters for all",
        ),
        pytest.param(
            {"adapters": [{"uri": "pvc://models/one", "name": "poet"}, {"uri": "pvc://models/two"}]},
            "adapters with a name are models of their own and those without are put on the model for all: name all of them, or none",
            id="an adapter with a name and one without",
        ),
        pytest.param(
            {"adapters": [{"uri": "pvc://models/one", "name": "poet"}, {"uri": "pvc://models/two", "name": "poet"}]},
            "two adapters have one name: requests choose by it, give each its own",
            id="two adapters of one name",
        ),
        pytest.param(
            {"adapters": [{"uri": "pvc://models/one"}], "adapterSelector": {"matchLabels": {"team": "poetry"}}},
            "those that adapterSelector takes are models of their own: give the adapters names, or remove one of the two",
            id="adapters without names beside those that are selected",
        ),
        pytest.param(
            {"engine": "LlamaCpp", "adapterSelector": {}},
            "adapterSelector is only read with engines Transformers and vLLM: remove it, or set engine to one of them",
            id="adapters selected for llama.cpp",
        ),
        pytest.param(
            {"adapterSelector": {"matchExpressions": [{"key": "team", "operator": "In"}]}},
            "matchExpressions: In and NotIn need values, Exists and DoesNotExist have none: add or remove them",
            id="a label that has to be one of none",
        ),
        pytest.param(
            {"engine": "Transformers", "vllm": {"toolCallParser": "hermes"}},
            "vllm is only read with engine vLLM: remove it, or set engine to vLLM",
            id="vLLM's own, with another engine",
        ),
        pytest.param(
            {"engine": "vLLM", "template": "HumanAssistant"},
            "vLLM takes the chat template that is saved with the model: remove template and templateFile, or set engine to Transformers",
            id="vLLM with a template of ours",
        ),
        pytest.param(
            {"engine": "LlamaCpp", "adapters": [{"uri": "pvc://models/a"}]},
            "llama.cpp serves a GGUF file as it is: remove load and adapters (merge them before the file is written), or set engine to "
            "Transformers",
            id="llama.cpp with an adapter",
        ),
        pytest.param(
            {"engine": "LlamaCpp", "compareWith": {"model": {"uri": "pvc://models/b"}, "load": {"bits": 8}}},
            "llama.cpp serves a GGUF file as it is: remove load and adapters (merge them before the file is written), or set engine to "
            "Transformers",
            id="llama.cpp with fewer bits for the second model",
        ),
        pytest.param(
            {"engine": "LlamaCpp", "model": {"uri": "pvc://models/a", "ropeScaling": {"factor": 2}}},
            "a GGUF file says itself how its positions are stretched: remove ropeScaling, and set it on the QuantizeJob that writes the "
            "file",
            id="llama.cpp with stretched positions",
        ),
        pytest.param(
            {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}},
            "podDisruptionBudget needs minAvailable or maxUnavailable, and not both: set one",
            id="two budgets",
        ),
    ],
)
TAKEN = (
    of(
        "SFTJob",
        [
            pytest.param(
                {"model": {"from": {"kind": "PretrainJob", "name": "base"}}}, id="a model that another job makes"
            ),
            pytest.param({}, id="the smallest"),
            pytest.param({"output": {"uri": "s3://bucket/poet"}}, id="an output in an object store"),
            pytest.param({"parallelism": {"nodes": 1, "processesPerNode": 1}}, id="one process, said aloud"),
            pytest.param({"parallelism": {"processesPerNode": 8}}, id="a process for each of eight GPUs"),
            pytest.param({"parallelism": {"nodes": 4, "minNodes": 4}}, id="all nodes, said twice"),
            pytest.param(
                {
                    "parallelism": {"nodes": 4, "minNodes": 3, "rescaleAfterSeconds": 0},
                    "training": {"gradientAccumulation": 3},
                },
                id="three nodes of four that can share a step",
            ),
            pytest.param(
                {"method": "QLoRA", "load": {"bits": 8}, "deepspeed": {"preset": "Zero2"}}, id="QLoRA under ZeRO-2"
            ),
            pytest.param(
                {"method": "QLoRA", "deepspeed": {"config": {"zero_optimization": {"stage": 2}}}},
                id="QLoRA under a config of one's own",
            ),
            pytest.param({"adapter": {"uri": "pvc://models/a"}, "merge": True}, id="an adapter trained on and merged"),
            pytest.param({"method": "Full", "deepspeed": {"preset": "Zero3"}}, id="full fine-tuning under ZeRO-3"),
            pytest.param(
                {"training": {"earlyStoppingPatience": 3}}, id="early stopping on the split that is the default"
            ),
            pytest.param(
                {
                    "training": {"earlyStoppingPatience": 3},
                    "dataset": {"train": [{"uri": "a"}], "validation": [{"uri": "b"}], "validationSplit": 0},
                },
                id="early stopping on a set of its own",
            ),
            pytest.param({"templateFile": {"uri": "pvc://data/own.jinja"}}, id="a template of one's own"),
            pytest.param({"template": "HumanAssistant"}, id="a named template"),
        ],
    )
    + of(
        "PretrainJob",
        [
            pytest.param({}, id="the smallest"),
            pytest.param(
                {
                    "model": {"from": {"kind": "PretrainJob", "name": "a"}},
                    "tokenizer": {"from": {"kind": "TokenizerJob", "name": "b"}},
                },
                id="inputs that other jobs make",
            ),
            pytest.param(
                {
                    "model": None,
                    "init": {
                        "config": {"uri": "pvc://models/base"},
                        "overrides": {"num_hidden_layers": 8, "rope_scaling": {"factor": 2.0}},
                    },
                    "tokenizer": {"uri": "a"},
                },
                id="from scratch",
            ),
            pytest.param(
                {"trainable": "LoRA", "load": {"bits": 8}, "deepspeed": {"preset": "Zero2"}},
                id="eight bits under ZeRO-2",
            ),
            pytest.param(
                {"dataset": {"train": [{"uri": "a"}], "streaming": True}, "training": {"maxSteps": 10}},
                id="a stream with an end",
            ),
            pytest.param(
                {
                    "training": {"earlyStoppingPatience": 3},
                    "dataset": {"train": [{"uri": "a"}], "validation": [{"uri": "b"}], "validationSplit": 0},
                },
                id="early stopping on text of its own",
            ),
        ],
    )
    + of(
        "MergeJob",
        [
            pytest.param({}, id="the smallest"),
            pytest.param(
                {"adapters": [{"uri": "a", "weight": 0.5}, {"from": {"kind": "SFTJob", "name": "b"}, "weight": -1}]},
                id="adapters with weights",
            ),
            pytest.param({"maxShardSize": "512MB", "dtype": "float32"}, id="small shards"),
        ],
    )
    + of(
        "DatasetJob",
        [
            pytest.param({}, id="the smallest"),
            pytest.param(
                {
                    "clean": {"rules": [{"name": "a", "pattern": "b", "replacement": "c"}]},
                    "split": {"validationShare": 0.1},
                },
                id="a rule of one's own, and a split",
            ),
            pytest.param(
                {"deduplicate": {"exact": "None", "near": {}, "against": [{"uri": "a"}]}},
                id="an earlier corpus that is nearly compared with",
            ),
            pytest.param(
                {
                    "content": "Conversations",
                    "sources": [{"uri": "a", "conversations": {"format": "Alpaca"}}],
                    "deduplicate": {"against": [{"uri": "b"}]},
                },
                id="conversations",
            ),
            pytest.param({"filters": {"minCharacters": 100, "maxCharacters": 100}}, id="documents of one length"),
            pytest.param(
                {"mixing": {"temperature": 3, "epochsPerSource": 2}, "shuffle": True, "format": "Parquet"},
                id="a mixture by temperature, shuffled, as Parquet",
            ),
        ],
    )
    + of(
        "TokenizerJob",
        [
            pytest.param({}, id="the smallest"),
            pytest.param(
                {"compareWith": [{"name": "Atom 7B", "uri": "a"}], "merge": {"maxSize": 49152}},
                id="compared with another",
            ),
        ],
    )
    + of(
        "QuantizeJob",
        [
            pytest.param({}, id="the smallest"),
            pytest.param(
                {"model": {"from": {"kind": "MergeJob", "name": "merged"}}}, id="a model that another job makes"
            ),
            pytest.param(
                {"descAct": True, "actGroupAware": False, "groupSize": -1, "bits": 3}, id="an order, no groups"
            ),
            pytest.param({"descAct": True}, id="one order of the columns"),
            pytest.param({"format": "GGUF"}, id="a file for llama.cpp"),
            pytest.param(
                {"format": "GGUF", "gguf": {"type": "Q4_K_M", "minEqualRows": 0}, "maxPerplexityIncrease": 0.1},
                id="a file of a type, with a gate",
            ),
            pytest.param(
                {
                    "templateFile": {"uri": "pvc://data/own.jinja"},
                    "calibration": {"train": [{"uri": "a"}], "samples": 1},
                    "evaluation": {"validation": [{"uri": "b"}], "answers": 1},
                    "maxPerplexityIncrease": 0,
                    "minStopRate": 1,
                },
                id="bounds at their edges",
            ),
        ],
    )
    + of(
        "EvaluationJob",
        [
            pytest.param({}, id="the smallest"),
            pytest.param(
                {
                    "models": [
                        {"name": "base", "model": {"uri": "a"}, "load": {"bits": 4}},
                        {
                            "name": "tuned",
                            "model": {"from": {"kind": "MergeJob", "name": "a"}},
                            "adapters": [{"from": {"kind": "SFTJob", "name": "b"}}],
                        },
                        {
                            "name": "4-bit",
                            "model": {"from": {"kind": "QuantizeJob", "name": "c"}},
                            "template": "ChatML",
                        },
                    ],
                    "dataset": {"validation": [{"uri": "a"}]},
                    "gates": [
                        {"metric": "perplexity", "model": "4-bit", "max": 20.5},
                        {"metric": "ceval-valid/acc", "model": "tuned", "min": 0.3, "max": 1},
                    ],
                },
                id="models side by side, with gates",
            ),
            pytest.param(
                {"prompts": None, "tasks": [{"name": "ceval-valid"}, {"name": "cmmlu", "numFewshot": 5}]},
                id="benchmark tasks alone",
            ),
            pytest.param({"systemPromptPreset": "llama2-zh"}, id="a system prompt known by name"),
            pytest.param(
                {
                    "models": [
                        {"name": "base", "model": {"uri": "a", "ropeScaling": {"type": "dynamic", "factor": 2}}},
                        {"name": "api", "endpoint": {"url": "http://a/v1", "model": "b", "secretRef": {"name": "c"}}},
                        {"name": "tuned", "model": {"uri": "c"}},
                    ],
                    "dataset": {"validation": [{"uri": "a"}]},
                    "original": "base",
                    "prompts": {"heldOut": 8},
                    "judge": {"endpoint": {"url": "https://b/v1"}, "against": "base"},
                },
                id="an original, an API and a judge",
            ),
            pytest.param(
                {
                    "models": [{"name": f"model-{number}", "model": {"uri": "a"}} for number in range(16)],
                    "gates": [
                        {"metric": "perplexity", "model": f"model-{number % 16}", "max": 1} for number in range(64)
                    ],
                },
                id="as many models and gates as there can be",
            ),
        ],
    )
)

TAKEN += of(
    "ChatDeployment",
    [
        pytest.param({}, id="the smallest"),
        pytest.param({"replicas": 0}, id="scaled to zero"),
        pytest.param(
            {"load": {"bits": 8}, "adapters": [{"uri": "pvc://models/a"}, {"uri": "pvc://models/b"}]}, id="adapters"
        ),
        pytest.param({"engine": "vLLM", "adapters": [{"uri": "pvc://models/a"}]}, id="vLLM with an adapter"),
        pytest.param(
            {
                "engine": "vLLM",
                "adapters": [{"uri": "pvc://models/a", "name": "poet"}, {"uri": "pvc://models/b", "name": "sage"}],
                "adapterSelector": {"matchLabels": {"team": "poetry"}},
            },
            id="vLLM with adapters beside",
        ),
        pytest.param(
            {
                "adapters": [{"uri": "pvc://models/a", "name": "poet"}],
                "adapterSelector": {
                    "matchLabels": {"team": "poetry"},
                    "matchExpressions": [
                        {"key": "tier", "operator": "NotIn", "values": ["trial"]},
                        {"key": "reviewed", "operator": "Exists"},
                    ],
                },
            },
            id="adapters by name and by label",
        ),
        pytest.param({"vllm": {"toolCallParser": "None"}}, id="vLLM's own, with whatever is chosen"),
        pytest.param(
            {"engine": "LlamaCpp", "compareWith": {"model": {"uri": "pvc://models/b"}}}, id="llama.cpp with two files"
        ),
        pytest.param({"compareWith": {"name": "base", "model": {"uri": "pvc://models/base"}}}, id="side by side"),
        pytest.param(
            {
                "model": None,
                "engine": "External",
                "endpoint": {"url": "https://api.example.org/v1", "model": "poet", "secretRef": {"name": "key"}},
                "compareWith": {"endpoint": {"url": "http://127.0.0.1:8000/v1"}},
            },
            id="two APIs elsewhere",
        ),
        pytest.param({"podDisruptionBudget": {"maxUnavailable": "50%"}}, id="a share of the pods"),
        pytest.param({"gates": [{"from": {"kind": "EvaluationJob", "name": "exam"}}]}, id="a gate"),
        pytest.param(
            {"httpRoute": {"parentRefs": [{"name": "web", "namespace": "infra"}], "hostnames": ["chat.example.org"]}},
            id="a route",
        ),
    ],
)
OUT_OF_BOUNDS = (
    of(
        "SFTJob",
        [
            pytest.param({"method": "lora"}, "method", id="a word that is none of the choices"),
            pytest.param({"trainng": {"epochs": 1}}, "trainng", id="a field that is misspelt"),
            pytest.param({"training": {"learningRate": 0}}, "learningRate", id="a bound that is itself excluded"),
            pytest.param({"training": {"epochs": 1001}}, "epochs", id="above a bound"),
            pytest.param({"dataset": {"train": []}}, "train", id="no data"),
            pytest.param({"model": {"uri": "ftp://x/y"}}, "uri", id="a scheme that is not served"),
            pytest.param({"output": {}}, "uri", id="a required field that is missing"),
            pytest.param(
                {"model": {"from": {"kind": "Job", "name": "x"}}}, "kind", id="a reference to a kind that has no output"
            ),
            pytest.param({"cache": {"claimName": "Not A Name"}}, "claimName", id="no name of Kubernetes"),
            pytest.param({"failurePolicy": {"hangTimeoutSeconds": 9}}, "hangTimeoutSeconds", id="below a bound"),
            pytest.param({"load": {"bits": 3}, "method": "QLoRA"}, "bits", id="a number that is none of the choices"),
        ],
    )
    + of(
        "PretrainJob",
        [
            pytest.param({"trainable": "All"}, "trainable", id="a word that is none of the choices"),
            pytest.param({"training": {"blockSize": 8}}, "blockSize", id="below a bound"),
        ],
    )
    + of(
        "MergeJob",
        [
            pytest.param({"adapters": []}, "adapters", id="nothing to merge"),
            pytest.param({"maxShardSize": "5 GB"}, "maxShardSize", id="a size with a space"),
            pytest.param({"maxLogitDifference": 0}, "maxLogitDifference", id="a bound that is itself excluded"),
        ],
    )
    + of(
        "DatasetJob",
        [
            pytest.param({"clean": {"presets": ["Poetry"]}}, "presets", id="a preset that there is not"),
            pytest.param({"filters": {"minChineseShare": 0}}, "minChineseShare", id="a filter of nothing"),
            pytest.param(
                {"mixing": {"temperature": 0.5}}, "temperature", id="a temperature that makes the large larger"
            ),
            pytest.param({"shardSize": "256"}, "shardSize", id="a size without its unit"),
        ],
    )
    + of(
        "TokenizerJob",
        [
            pytest.param({"merge": {"maxSize": 50000}}, "maxSize", id="a size that is no multiple of 64"),
            pytest.param({"train": {"characterCoverage": 0.5}}, "characterCoverage", id="below a bound"),
            pytest.param({"compareWith": [{"name": "a/b", "uri": "a"}]}, "name", id="a name that is no word"),
        ],
    )
    + of(
        "QuantizeJob",
        [
            pytest.param({"bits": 5}, "bits", id="bits that no kernel has"),
            pytest.param({"format": "GGUF", "gguf": {"type": "Q4"}}, "type", id="a type that llama.cpp does not have"),
            pytest.param({"groupSize": 100}, "groupSize", id="a size that is none of the choices"),
            pytest.param({"dampPercent": 1}, "dampPercent", id="a bound that is itself excluded"),
            pytest.param({"calibration": {"train": []}}, "train", id="no rows"),
            pytest.param({"minStopRate": 1.1}, "minStopRate", id="above a bound"),
        ],
    )
    + of(
        "EvaluationJob",
        [
            pytest.param({"models": []}, "models", id="no models"),
            pytest.param({"models": [{"name": "a/b", "model": {"uri": "a"}}]}, "name", id="a name that is no word"),
            pytest.param({"prompts": {"preset": "en"}}, "preset", id="questions that nobody knows"),
            pytest.param({"tasks": [{"name": ""}]}, "name", id="a task without a name"),
        ],
    )
)
OUT_OF_BOUNDS += of(
    "ChatDeployment",
    [
        pytest.param({"replicas": -1}, "replicas", id="fewer pods than none"),
        pytest.param({"engine": "vllm"}, "engine", id="an engine in other letters"),
        pytest.param(
            {"model": None, "engine": "External", "endpoint": {"url": "vllm:8000"}}, "url", id="an address that is none"
        ),
        pytest.param({"httpRoute": {"parentRefs": []}}, "parentRefs", id="a route on no Gateway"),
        pytest.param({"generation": {"topP": 0}}, "topP", id="nothing to draw from"),
    ],
)


def manifest(kind: str, spec: dict[str, Any], name: str = "rules") -> dict[str, Any]:
    whole = copy.deepcopy(MINIMAL[kind]) | spec
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {field: value for field, value in whole.items() if value is not None},
    }


def rules(model: type[BaseModel]) -> Iterator[Rule]:
    """Every rule of a model and of what it consists of."""
    yield from getattr(model, "rules", ())
    for field in model.model_fields.values():
        for part in _models(field.annotation):
            yield from rules(part)


def _models(annotation: Any) -> Iterator[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


EVERY_MESSAGE = {IS_PLACE.message, IS_PUSHED_TO.message} | {
    rule.message for kind in KINDS.values() for rule in rules(kind)
}
"""With those of types, which stand at each of their fields."""


def words_of_python(obj: dict[str, Any]) -> set[str]:
    """Messages of the rules that the model refuses it for."""
    try:
        KINDS[obj["kind"]].model_validate(obj)
    except ValidationError as error:
        return {message for message in EVERY_MESSAGE for each in error.errors() if message in each["msg"]}
    return set()


@pytest.fixture(scope="module")
def served(control_plane) -> ControlPlane:
    for kind in KINDS.values():
        control_plane.apply(crd(kind))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
    return control_plane


def words_of_the_server(plane: ControlPlane, obj: dict[str, Any]) -> str:
    """All that the API server has against it."""
    try:
        plane.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(obj))
    except BedError as error:
        return str(error)
    return ""


def test_every_rule_has_a_case_that_breaks_it():
    assert EVERY_MESSAGE
    assert EVERY_MESSAGE - {case.values[2] for case in BROKEN} == set()


class TestInPython:
    @pytest.mark.parametrize(("kind", "spec", "message"), BROKEN)
    def test_a_broken_rule(self, kind, spec, message):
        assert words_of_python(manifest(kind, spec)) == {message}

    @pytest.mark.parametrize(("kind", "spec"), TAKEN)
    def test_what_is_taken(self, kind, spec):
        KINDS[kind].model_validate(manifest(kind, spec))

    @pytest.mark.parametrize(("kind", "spec", "field"), OUT_OF_BOUNDS)
    def test_a_bound(self, kind, spec, field):
        with pytest.raises(ValidationError) as caught:
            KINDS[kind].model_validate(manifest(kind, spec))
        assert [field in map(str, each["loc"]) for each in caught.value.errors()] == [True]


@pytest.mark.controlplane
class TestOnTheApiServer:
    @pytest.mark.parametrize(("kind", "spec", "message"), BROKEN)
    def test_a_broken_rule(self, served, kind, spec, message):
        said = words_of_the_server(served, manifest(kind, spec))
        assert {each for each in EVERY_MESSAGE if each in said} == {message}, said

    @pytest.mark.parametrize(("kind", "spec"), TAKEN)
    def test_what_is_taken(self, served, kind, spec):
        assert words_of_the_server(served, manifest(kind, spec)) == ""

    @pytest.mark.parametrize(("kind", "spec", "field"), OUT_OF_BOUNDS)
    def test_a_bound(self, served, kind, spec, field):
        said = words_of_the_server(served, manifest(kind, spec))
        assert field in said, said

    @pytest.mark.parametrize(
        ("kind", "limit"),
        [
            ("DatasetJob", 46),
            ("TokenizerJob", 44),
            ("PretrainJob", 45),
            ("SFTJob", 50),
            ("MergeJob", 48),
            ("QuantizeJob", 45),
            ("EvaluationJob", 45),
            ("ChatDeployment", 40),
        ],
    )
    def test_a_name_whose_pods_would_not_fit(self, served, kind, limit):
        assert words_of_the_server(served, manifest(kind, {}, "a" * limit)) == ""
        said = words_of_the_server(served, manifest(kind, {}, "a" * (limit + 1)))
        assert (
            f"metadata.name may have {limit} characters at most, so that the names of its pods fit 63: shorten it"
            in said
        )


BAD_NAMES = ["7b-chat", "poet.v2"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_no_service_may_have(name):
    with pytest.raises(ValidationError, match=r"metadata\.name becomes the name of a Service"):
        KINDS["ChatDeployment"].model_validate(manifest("ChatDeployment", {}, name))


@pytest.mark.controlplane
@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_no_service_may_have_is_refused_by_the_server_too(served, name):
    said = words_of_the_server(served, manifest("ChatDeployment", {}, name))
    assert "metadata.name becomes the name of a Service: it starts with a letter and has a-z, 0-9 and - only" in said


NODES = {"parallelism": {"nodes": 2}}


@pytest.mark.controlplane
@pytest.mark.parametrize("kind", ["SFTJob", "PretrainJob"])
@pytest.mark.parametrize("name", [*BAD_NAMES, "a" * (NODES_NAME_LIMIT + 1)])
def test_a_name_that_hosts_may_not_have_is_refused_to_a_job_of_several_nodes_alone(served, kind, name):
    said = words_of_the_server(served, manifest(kind, NODES, name))
    assert NODES_NAME_RULE.message in said
    assert words_of_the_server(served, manifest(kind, NODES, "a" * NODES_NAME_LIMIT)) == ""
    assert words_of_the_server(served, manifest(kind, {"parallelism": {"processesPerNode": 2}}, name)) == ""


@pytest.mark.controlplane
def test_dots_in_the_name_of_a_job_of_several_pods(served):
    """Each of its pods has its number and the name of the Job as a host name."""
    said = words_of_the_server(served, manifest("DatasetJob", NODES, "corpus.web"))
    assert "metadata.name of a job of several nodes becomes the name of hosts: write it without dots" in said
    assert words_of_the_server(served, manifest("DatasetJob", {}, "corpus.web")) == ""
    assert words_of_the_server(served, manifest("DatasetJob", NODES, "a" * 46)) == ""


COMMON: dict[str, Any] = {
    "output": {"uri": "pvc://models/other"},
    "failurePolicy": {"maxRestarts": 0},
    "cache": {"claimName": "other"},
    "pod": {"shmSize": "2Gi"},
}
FULL: dict[str, dict[str, Any]] = {
    kind: MINIMAL[kind]
    | optional
    | {"cache": {"claimName": "cache"}, "activeDeadlineSeconds": 3600, "ttlSecondsAfterFinished": 60}
    for kind, optional in {
        "DatasetJob": {
            "maxBadRows": 5,
            "onBadRow": "Skip",
            "decontaminate": {"against": [{"uri": "pvc://data/held-out"}]},
            "tokenizer": {"uri": "pvc://models/a"},
        },
        "TokenizerJob": {},
        "PretrainJob": {
            "tokenizer": {"uri": "pvc://models/a"},
            "trainable": "LoRA",
            "load": {"bits": 8},
            "deepspeed": {"preset": "Zero2"},
        },
        "SFTJob": {
            "adapter": {"uri": "pvc://models/a"},
            "templateFile": {"uri": "pvc://data/own.jinja"},
            "load": {"bits": 8},
            "method": "QLoRA",
            "deepspeed": {"preset": "Zero2"},
        },
        "MergeJob": {},
        "QuantizeJob": {
            "actGroupAware": True,
            "templateFile": {"uri": "pvc://data/own.jinja"},
            "maxPerplexityIncrease": 0.1,
            "minStopRate": 0.9,
            "minTokenAgreement": 0.9,
            "maxMeanDivergence": 0.1,
        },
        "EvaluationJob": {
            "models": TWO["models"],
            "original": "base",
            "judge": {"endpoint": {"url": "http://a/v1"}, "against": "base"},
            "dataset": {"validation": [{"uri": "pvc://data/held-out.jsonl"}]},
            "systemPrompt": "你是诗人。",
            "tasks": [{"name": "cmmlu"}],
            "taskFiles": {"uri": "pvc://data/tasks"},
        },
    }.items()
}
CHANGED: dict[str, dict[str, Any]] = {
    "DatasetJob": COMMON
    | {
        "content": "Conversations",
        "mixing": {"temperature": 2},
        "tokenizer": {"uri": "pvc://models/b"},
        "shuffle": True,
        "format": "Parquet",
        "sources": [{"uri": "pvc://data/other"}],
        "clean": {"presets": ["Web"]},
        "filters": {"minCharacters": 5},
        "deduplicate": {"exact": "None"},
        "decontaminate": {"against": [{"uri": "pvc://data/other"}]},
        "privacy": {"mask": ["Email"]},
        "split": {"validationShare": 0.1},
        "seed": 7,
        "shardSize": "1GB",
        "compression": "gzip",
        "parallelism": {"processesPerNode": 3},
        "onBadRow": "Fail",
        "maxBadRows": 6,
    },
    "TokenizerJob": COMMON
    | {
        "base": {"uri": "pvc://models/other"},
        "dataset": {"train": [{"uri": "pvc://data/other"}]},
        "train": {"vocabSize": 16000},
        "merge": {"maxSize": 49152},
        "compareWith": [{"name": "other", "uri": "pvc://models/other"}],
    },
    "PretrainJob": COMMON
    | {
        "model": {"uri": "pvc://models/other"},
        "init": {"config": {"uri": "pvc://models/other"}},
        "tokenizer": {"uri": "pvc://models/b"},
        "dataset": {"train": [{"uri": "pvc://data/other"}]},
        "trainable": "Full",
        "lora": {"rank": 16},
        "load": {"bits": 4},
        "training": {"epochs": 2},
        "deepspeed": {"preset": "Zero2", "offload": "CPU"},
        "parallelism": {"nodes": 1, "processesPerNode": 1},
    },
    "SFTJob": COMMON
    | {
        "model": {"uri": "pvc://models/other"},
        "adapter": {"uri": "pvc://models/b"},
        "dataset": {"train": [{"uri": "pvc://data/other.jsonl"}]},
        "template": "Llama2",
        "templateFile": {"uri": "pvc://data/other.jinja"},
        "method": "LoRA",
        "lora": {"rank": 16},
        "load": {"bits": 4},
        "training": {"epochs": 1},
        "deepspeed": {"preset": "Zero2", "offload": "CPU"},
        "merge": True,
        "dtype": "float16",
        "maxShardSize": "1GB",
        "parallelism": {"nodes": 1, "processesPerNode": 1},
    },
    "MergeJob": COMMON
    | {
        "model": {"uri": "pvc://models/other"},
        "adapters": [{"uri": "pvc://models/other"}],
        "dtype": "float32",
        "maxShardSize": "1GB",
        "maxLogitDifference": 1.0,
    },
    "QuantizeJob": COMMON
    | {
        "model": {"uri": "pvc://models/other"},
        "format": "GGUF",
        "gguf": {"type": "F16"},
        "bits": 8,
        "groupSize": 64,
        "sym": False,
        "descAct": True,
        "actGroupAware": False,
        "dampPercent": 0.1,
        "trueSequential": False,
        "calibration": {"train": [{"uri": "pvc://data/other.jsonl"}]},
        "evaluation": {"answers": 8},
        "template": "Llama2",
        "templateFile": {"uri": "pvc://data/other.jinja"},
        "maxPerplexityIncrease": 0.2,
        "minStopRate": 0.5,
        "minTokenAgreement": 0.5,
        "maxMeanDivergence": 0.5,
    },
    "EvaluationJob": COMMON
    | {
        "models": [{"name": "other", "model": {"uri": "pvc://models/other"}}],
        "dataset": {"validation": [{"uri": "pvc://data/other.jsonl"}]},
        "prompts": {"preset": "zh", "limit": 8},
        "original": "tuned",
        "judge": {"endpoint": {"url": "http://a/v1"}, "against": "tuned"},
        "systemPrompt": "你是小说家。",
        "systemPromptPreset": "llama2-zh",
        "generation": {"maxNewTokens": 64},
        "tasks": [{"name": "ceval-valid"}],
        "taskFiles": {"uri": "pvc://data/other"},
        "gates": [{"metric": "stopRate", "model": "poet", "min": 0.5}],
    },
}
"""For every field that must not change, another value."""
FIELDS = [pytest.param(kind, field, id=f"{kind}: {field}") for kind, fields in CHANGED.items() for field in fields]
OPTIONAL = [
    pytest.param(kind, field, id=f"{kind}: {field}")
    for kind, full in FULL.items()
    for field in full
    if field not in MINIMAL[kind] and field not in ("method", "trainable") and field in CHANGED[kind]
]
"""Fields that can be absent."""


@pytest.fixture(scope="module")
def jobs(served) -> Iterator[ControlPlane]:
    """Of each kind one with every field, and one with as few as there can be."""
    for kind, full in FULL.items():
        served.create(manifest(kind, full, "immutable"), manifest(kind, {}, "immutable-small"))
    yield served
    for kind in FULL:
        served.kubectl("delete", kind, "immutable", "immutable-small", "-n", "default")


@pytest.mark.controlplane
class TestImmutability:
    def refusal(self, plane: ControlPlane, kind: str, name: str, spec: dict[str, Any]) -> str:
        patch = json.dumps({"spec": spec})
        try:
            plane.kubectl("patch", kind, name, "-n", "default", "--type=merge", "--dry-run=server", "-p", patch)
        except BedError as error:
            return str(error)
        return ""

    @staticmethod
    def message(field: str) -> str:
        return f"field is immutable: to change {field}, create a job with a new name (outputs that did not change are reused)"

    @pytest.mark.parametrize(("kind", "field"), FIELDS)
    def test_a_field_keeps_its_value(self, jobs, kind, field):
        assert self.message(field) in self.refusal(jobs, kind, "immutable", {field: CHANGED[kind][field]})

    @pytest.mark.parametrize(("kind", "field"), OPTIONAL)
    def test_a_field_cannot_be_removed(self, jobs, kind, field):
        """With `self == oldSelf` on the field alone it could be removed, and then added with another value."""
        assert self.message(field) in self.refusal(jobs, kind, "immutable", {field: None})

    @pytest.mark.parametrize(("kind", "field"), OPTIONAL)
    def test_a_field_cannot_be_added(self, jobs, kind, field):
        assert self.message(field) in self.refusal(jobs, kind, "immutable-small", {field: FULL[kind][field]})

    @pytest.mark.parametrize("kind", FULL)
    @pytest.mark.parametrize(
        "spec",
        [
            {"suspend": True},
            {"activeDeadlineSeconds": 7200},
            {"activeDeadlineSeconds": None},
            {"ttlSecondsAfterFinished": 0},
            {"ttlSecondsAfterFinished": None},
        ],
        ids=json.dumps,
    )
    def test_what_may_change(self, jobs, kind, spec):
        assert self.refusal(jobs, kind, "immutable", spec) == ""
        assert set(spec) <= KINDS[kind].model_fields["spec"].annotation.mutable

    @pytest.mark.parametrize("kind", FULL)
    def test_every_field_is_one_or_the_other(self, kind):
        spec = KINDS[kind].model_fields["spec"].annotation
        aliases = {field.alias for field in spec.model_fields.values()}
        assert aliases == set(CHANGED[kind]) | spec.mutable

    @pytest.mark.parametrize("kind", FULL)
    @pytest.mark.parametrize("spec", [pytest.param(FULL, id="every field"), pytest.param({}, id="few")])
    def test_what_is_applied_again_changes_nothing(self, served, kind, spec):
        """A part that never changes has one owner, who replaces it by itself; its defaults are filled in again. Flux and Argo CD take
        ownership over."""
        text = json.dumps(manifest(kind, spec.get(kind, {}), "applied"))
        for owner in (["kubectl"], ["kubectl"], ["flux", "--force-conflicts"]):
            manager, *force = owner
            served.kubectl("apply", "--server-side", f"--field-manager={manager}", *force, "-f", "-", input=text)
        found = served.get(PLURALS[kind], "applied")
        served.kubectl("delete", kind, "applied", "-n", "default")
        assert found["metadata"]["generation"] == 1

    def test_every_kind_of_job_is_asked(self):
        assert set(FULL) == {name for name, kind in KINDS.items() if issubclass(kind, Job)}


def test_of_a_deployment_every_field_may_change():
    assert KINDS["ChatDeployment"].model_fields["spec"].annotation.fixed() == []
