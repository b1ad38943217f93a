"""From a manifest and flags to a typed job; each mistake a line that names the field, the value and the remedy."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from alpaca_operator.api import Resource, tolerant
from alpaca_operator.api.resource import API_VERSION, GROUP
from workloads.errors import InputError, SpecError
from workloads.manifest import fields

Document = dict[str, Any]
LeaveOut = Callable[[str], None]
"""Told of each field that is left out, for this version does not know it."""
Kind = TypeVar("Kind", bound=Resource)


def load_job(
    kind: type[Kind],
    file: str | None,
    name: str | None,
    overrides: Sequence[tuple[str, Any]],
    text: str | None = None,
    leave_out: LeaveOut | None = None,
) -> Kind:
    """The job of ``kind`` in ``file`` (or of flags alone), with ``overrides`` (paths below ``spec``) put in; ``text`` is the content of
    the file where it was read already. ``leave_out`` is told of fields that nobody here knows; without it they are refused.

    Raises SpecError, one line per problem, or InputError when the file cannot be read.
    """
    if file is None:
        document: Document = {"metadata": {"name": name or kind.workload}, "spec": {}}
        text = ""
    else:
        text = read_text(file) if text is None else text
        document = pick(documents(text, file), kind, name, file)
    for path, value in overrides:
        put(document, path, value)
    return validated(kind, document, file, text, [("spec", *fields.steps(path)) for path, _ in overrides], leave_out)


def load_all(kinds: Mapping[str, type[Kind]], file: str, text: str | None = None) -> list[Kind]:
    """Every job in ``file``, in order; documents of other kinds (a Secret, a claim) are for the cluster and left out.

    ``text`` is its content where it was read already.
    """
    text = read_text(file) if text is None else text
    ours = [document for document in documents(text, file) if is_ours(document)]
    for document in ours:
        if document.get("kind") not in kinds:
            close = difflib.get_close_matches(str(document.get("kind")), kinds, n=1)
            hint = f"did you mean {close[0]}?" if close else f"this version runs {', '.join(kinds)}"
            raise SpecError(f"{file}: {_title(document)}: no such kind; {hint}")
    return [validated(kinds[document["kind"]], document, file, text) for document in ours]


def read_text(file: str) -> str:
    """The content of a file; ``-`` is standard input."""
    if file == "-":
        return sys.stdin.read()
    try:
        return Path(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        near = difflib.get_close_matches(Path(file).name, _names(Path(file).parent), n=1)
        hint = f"; did you mean {Path(file).parent / near[0]}?" if near else ""
        raise InputError(f"{file} does not exist{hint}") from None
    except UnicodeDecodeError as error:
        raise SpecError(f"{file} is not UTF-8 text (byte {error.start}): save it as UTF-8") from error
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}") from error


def documents(text: str, file: str) -> list[Document]:
    """The objects in a YAML 1.2 or JSON text; a `List` stands for its items. Raises SpecError with the line for broken text."""
    if text.lstrip().startswith("{"):
        try:  # what the operator hands over; JSON that is no JSON may still be YAML
            return _flattened([json.loads(text)], file)
        except ValueError:
            pass
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    try:
        return _flattened(list(yaml().load_all(text)), file)
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise SpecError(f"{file}:{line}: not YAML: {error.problem or error.context}") from error
    except YAMLError as error:
        raise SpecError(f"{file}: not YAML: {error}") from error


def yaml() -> Any:
    """A reader of YAML 1.2 as kubectl reads it: `1e-4` is a number, `off` a string, and so is a date."""
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import SafeConstructor

    class Constructor(SafeConstructor):
        """Without dates: JSON has none, so for the API server they are strings."""

    Constructor.add_constructor("tag:yaml.org,2002:timestamp", SafeConstructor.construct_yaml_str)
    reader = YAML(typ="safe", pure=True)
    reader.Constructor = Constructor
    return reader


def is_ours(document: Document) -> bool:
    return str(document.get("apiVersion", "")).partition("/")[0] == GROUP


def pick(candidates: list[Document], kind: type[Resource], name: str | None, file: str) -> Document:
    """The one document of ``kind``, or the one called ``name``."""
    ours = [document for document in candidates if document.get("kind") == kind.__name__]
    if not ours:
        others = ", ".join(_title(document) for document in candidates) or "nothing"
        near = difflib.get_close_matches(kind.__name__, [str(document.get("kind")) for document in candidates], n=1)
        hint = f"; did you mean kind: {kind.__name__} where it says {near[0]}?" if near else ""
        raise SpecError(f"{file} holds no {kind.__name__}, but {others}{hint}")
    names = [_name(document) for document in ours]
    if name is not None:
        ours = [document for document in ours if _name(document) == name]
        if not ours:
            raise SpecError(f"{file} holds no {kind.__name__} called {name}; it holds {', '.join(names)}")
    if len(ours) > 1:
        raise SpecError(f"{file} holds {len(ours)} {kind.__name__}s: choose one with --name: {', '.join(names)}")
    return ours[0]


def put(document: Document, path: str, value: Any) -> None:
    """Set ``spec.<path>``, making the maps and list elements on the way. Raises SpecError where the path leads through a value."""
    node: Any = document.setdefault("spec", {})
    steps = fields.steps(path)
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, int):
            if not isinstance(node, list) or step > len(node):
                have = len(node) if isinstance(node, list) else 0
                raise SpecError(f"--{path}: the next free element is [{have}]")
            if step == len(node):
                node.append(None)
        elif not isinstance(node, dict):
            raise SpecError(f"--{path}: {step} is no field of {node!r}")
        if following is None:
            node[step] = value
            return
        below = node[step] if isinstance(step, int) else node.get(step)
        if below is None:
            below = node[step] = [] if isinstance(following, int) else {}
        node = below


def validated(
    kind: type[Kind],
    document: Document,
    file: str | None,
    text: str = "",
    flags: Sequence[tuple[fields.Step, ...]] = (),
    leave_out: LeaveOut | None = None,
) -> Kind:
    """The typed job. Raises SpecError with one line per problem; those below the paths in ``flags`` are not the file's."""
    version = document.get("apiVersion", API_VERSION)
    if version != API_VERSION:
        raise SpecError(f"{file or 'flags'}: apiVersion is {version!r}: this version reads {API_VERSION}")
    content = {key: value for key, value in document.items() if key != "status"}
    metadata = content.get("metadata")
    if isinstance(metadata, dict) and "name" not in metadata and "generateName" in metadata:
        content["metadata"] = {**metadata, "name": str(metadata["generateName"]).rstrip("-")}
    try:
        content = {"kind": kind.__name__, **content}
        if leave_out is None:
            return kind.model_validate(content, strict=True, by_alias=True, by_name=False)
        job, left_out = tolerant.read(kind, content, lambda error, _: error == "extra_forbidden", strict=True)
        for path in left_out:
            leave_out(fields.dotted(path))
        return job
    except ValidationError as error:
        lines: list[tuple[int, str]] = []
        for path, line in problems(kind, error):
            from_flag = any(path[: len(flag)] == flag for flag in flags)
            number = None if from_flag else _line(text, document, path)
            lines.append((number or 0, line if from_flag else _place(file, number) + line))
        raise SpecError("\n".join(line for _, line in sorted(lines, key=lambda entry: entry[0]))) from error


@dataclass(frozen=True)
class Problem:
    """What pydantic found, with the field it is about."""

    path: tuple[str | int, ...]
    kind: str
    value: Any
    context: dict[str, Any]
    message: str


def problems(kind: type[BaseModel], error: ValidationError) -> list[tuple[tuple[str | int, ...], str]]:
    """Path and line for each field that is wrong, each field once."""
    lines: dict[tuple[str | int, ...], str] = {}
    for found in error.errors(include_url=False):
        path = fields.real_path(kind, found["loc"])
        problem = Problem(path, found["type"], found["input"], found.get("ctx", {}), found["msg"])
        if path not in lines:
            lines[path] = f"{fields.dotted(path)}: {_message(kind, problem)}"
    return list(lines.items())


def _message(kind: type[BaseModel], problem: Problem) -> str:
    """What is wrong, and what to write instead."""
    field = fields.find(kind, problem.path)
    if problem.kind == "missing":
        return (
            f"is missing: {field.sentence.partition('. ')[0].rstrip('.')}" if field and field.sentence else "is missing"
        )
    if problem.kind == "extra_forbidden":
        return _unknown(kind, problem.path)
    if problem.kind == "value_error":
        return str(problem.context.get("error", problem.message))
    wanted = field.wanted if field else problem.message
    value = _as_written(problem.value)
    near = ""
    if field and field.choices and isinstance(problem.value, str):
        by_lower = {choice.lower(): choice for choice in field.choices}
        close = difflib.get_close_matches(problem.value.lower(), by_lower, n=1)
        near = f"; did you mean {by_lower[close[0]]}?" if close else ""
    if field and field.model and isinstance(problem.value, str) and "uri" in fields.names(field.model, ()):
        element = (*problem.path, 0) if field.is_list else problem.path
        near = f"; write {fields.dotted((*element, 'uri'))}"
    return f"{value} is not {wanted}{near}"


def _unknown(kind: type[BaseModel], path: tuple[str | int, ...]) -> str:
    siblings = fields.names(kind, path[:-1])
    name = str(path[-1])
    by_lower = {sibling.lower(): sibling for sibling in siblings}
    close = difflib.get_close_matches(name.lower().replace("_", ""), by_lower, n=1)
    if close:
        return f"unknown field; did you mean {by_lower[close[0]]}?"
    elsewhere = [fields.dotted(("spec", *found)) for found in fields.homes(kind, name)]
    if elsewhere:
        return f"unknown field here; did you mean {elsewhere[0]}?"
    return f"unknown field; here are {', '.join(siblings)}" if siblings else "unknown field"


def _place(file: str | None, line: int | None) -> str:
    """``file:line: `` as far as it is known: a job of flags alone has neither."""
    if file is None:
        return ""
    return f"{file}:{line}: " if line else f"{file}: "


def _line(text: str, document: Document, path: tuple[str | int, ...]) -> int | None:
    """The line of the deepest part of ``path`` that the text has; None where the text does not have the document."""
    from ruamel.yaml.error import YAMLError
    from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

    def child(node: Node, step: str | int) -> tuple[Node, Node] | None:
        if isinstance(node, MappingNode):
            return next(((key, value) for key, value in node.value if key.value == step), None)
        if isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
            return node.value[step], node.value[step]
        return None

    def value_of(node: Node, *steps: str) -> str | None:
        for step in steps:
            found = child(node, step)
            if found is None:
                return None
            node = found[1]
        return node.value if isinstance(node.value, str) else None

    try:
        roots = [root for root in yaml().compose_all(text) if root is not None]
    except YAMLError:
        return None
    wanted = (document.get("kind"), _name(document))
    for root in roots:
        if (value_of(root, "kind"), value_of(root, "metadata", "name")) == wanted:
            line, node = root.start_mark.line, root
            for step in path:
                found = child(node, step)
                if found is None:
                    break
                line, node = found[0].start_mark.line, found[1]
            return int(line) + 1
    return None


def _flattened(read: list[Any], file: str) -> list[Document]:
    result: list[Document] = []
    for document in read:
        if document is None:
            continue
        if not isinstance(document, dict):
            raise SpecError(
                f"{file}: {_as_written(document)} is no Kubernetes object: it needs apiVersion, kind, metadata and spec"
            )
        if document.get("kind") == "List" and isinstance(document.get("items"), list):
            result += _flattened(document["items"], file)
        else:
            result.append(document)
    return result


def _name(document: Document) -> str:
    metadata = document.get("metadata")
    named = metadata if isinstance(metadata, dict) else {}
    return str(named.get("name") or named.get("generateName") or "")


def _title(document: Document) -> str:
    return f"{document.get('kind', 'an object without kind')} {_name(document)}".strip()


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()] if folder.is_dir() else []


def _as_written(value: Any, limit: int = 60) -> str:
    """A value as it stands in the file, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if isinstance(value, str) and "'" not in value and "\n" not in value:
        text = f"'{value}'"
    return text if len(text) <= limit else text[:limit] + "…"


def parse_value(text: str, field: fields.Field | None, flag: str) -> Any:
    """The value of a flag: text as it stands for a field that takes text, YAML 1.2 for any other."""
    if field is not None and field.is_text:
        return text
    if field is not None and field.choices and text in field.choices:
        return text
    from ruamel.yaml.error import YAMLError

    try:
        return yaml().load(text)
    except YAMLError as error:
        problem = getattr(error, "problem", None) or str(error)
        raise SpecError(f"--{flag}: {text!r} is not YAML: {problem}") from error
