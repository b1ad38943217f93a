"""What the models know of their fields, for flags, help and messages: paths, sentences, bounds, defaults."""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from alpaca_operator.api.sentences import sentences

Step = str | int
"""A field's camelCase name, a map's key, or an index into a list."""

_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


def steps(path: str) -> list[Step]:
    """``dataset.train[0].uri`` in its parts."""
    return [int(index) if index else name for name, index in _STEP.findall(path)]


def dotted(path: tuple[Step, ...]) -> str:
    """The parts as ``spec.dataset.train[0].uri``."""
    text = ""
    for step in path:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text or "the document"


@dataclass(frozen=True)
class Field:
    """A field of a model, or an element of one that is a list."""

    info: FieldInfo | None
    annotation: Any
    """Its type, without `None` and without `Annotated`."""
    metadata: tuple[Any, ...]
    home: tuple[type[BaseModel], str] | None = None
    """The model that has it, and its name there."""

    @property
    def sentence(self) -> str:
        """Its description in one line."""
        model, name = self.home or (None, "")
        return sentences(model).get(name, "") if model else ""

    @property
    def model(self) -> type[BaseModel] | None:
        """The model of an object, or of the elements of a list of objects."""
        annotation = self.element if self.is_list else self.annotation
        return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None

    @property
    def is_list(self) -> bool:
        return typing.get_origin(self.annotation) is list

    @property
    def is_map(self) -> bool:
        return typing.get_origin(self.annotation) is dict

    @property
    def element(self) -> Any:
        """The type of a list's elements or a map's values."""
        return _plain(typing.get_args(self.annotation)[-1])[0]

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that a field of named values takes."""
        annotation = self.element if self.is_list else self.annotation
        return typing.get_args(annotation) if typing.get_origin(annotation) is Literal else ()

    @property
    def examples(self) -> list[str]:
        """Values that would do, for a field whose pattern says little to people."""
        sources = [self.info, *self.metadata]  # an optional field has those of its type there
        return [example for each in sources for example in getattr(each, "examples", None) or ()]

    @property
    def is_text(self) -> bool:
        return self.annotation is str

    @property
    def is_switch(self) -> bool:
        return self.annotation is bool

    @cached_property
    def bounds(self) -> dict[str, Any]:
        """`ge`, `gt`, `le`, `lt`, `min_length`, `max_length`, `pattern`, as far as they are set."""
        found = {}
        for item in self.metadata:
            for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
                value = getattr(item, name, None)
                if value is not None:
                    found[name] = value
        return found

    @property
    def placeholder(self) -> str:
        """The kind of value, in capitals, for help."""
        if self.is_switch:
            return "[true|false]"
        if self.choices and not self.is_list:
            return "|".join(str(choice) for choice in self.choices)
        if self.is_list or self.is_map or self.model or self.annotation is Any:
            return "YAML"
        if self.annotation is int:
            return "INTEGER"
        if self.annotation is float:
            return "NUMBER"
        return "TEXT" if self.is_text else "QUANTITY"

    @property
    def wanted(self) -> str:
        """What a value has to be, for the end of "… is not …"."""
        if self.choices and not self.is_list:
            words = [str(choice) for choice in self.choices]
            return f"one of {', '.join(words)}" if len(words) > 1 else words[0]
        if self.is_switch:
            return "true or false"
        if self.is_list:
            return f"a list{self._sized('element')}" + (f" of {', '.join(self.choices)}" if self.choices else "")
        if self.is_map or self.model:
            return f"a map{self._sized('entry')}"
        if self.annotation is int:
            return f"a whole number{self._range}"
        if self.annotation is float:
            return f"a number{self._range}"
        if self.is_text:
            pattern = self.bounds.get("pattern")
            if self.examples:
                return f"text such as {', '.join(self.examples)}"
            return f"text{self._sized('character')}" + (f" that matches {pattern}" if pattern else "")
        return f"a whole number or text such as {', '.join(self.examples)}"

    @property
    def limits(self) -> str:
        """The bounds, for help."""
        if self.annotation in (int, float):
            return self._range.strip().removeprefix("of ")
        unit = "element" if self.is_list else "entry" if self.is_map else "character"
        return self._sized(unit).removeprefix(" of ")

    @property
    def _range(self) -> str:
        if "ge" in self.bounds and "le" in self.bounds:
            return f" from {self.bounds['ge']:,} to {self.bounds['le']:,}"
        words = {"ge": "of at least", "gt": "above", "le": "at most", "lt": "below"}
        bounds = [f"{word} {self.bounds[name]:,}" for name, word in words.items() if name in self.bounds]
        return f" {' and '.join(bounds)}" if bounds else ""

    def _sized(self, unit: str) -> str:
        least, most = self.bounds.get("min_length"), self.bounds.get("max_length")
        plural = {"entry": "entries"}.get(unit, unit + "s")
        if least and most:
            return f" of {least} to {most:,} {plural}"
        return f" of at most {most:,} {plural}" if most else ""

    @property
    def is_required(self) -> bool:
        return self.info is not None and self.info.is_required()

    @property
    def default(self) -> Any:
        """The value of an absent field, as JSON."""
        value = self.info.get_default(call_default_factory=True) if self.info else None
        if value is PydanticUndefined:
            return None
        return value.model_dump(by_alias=True, exclude_defaults=True) if isinstance(value, BaseModel) else value


def of(model: type[BaseModel]) -> Iterator[tuple[str, Field]]:
    """The fields of a model by their camelCase names, in order."""
    for name, info in model.model_fields.items():
        annotation, metadata = _plain(info.annotation)
        yield info.alias or name, Field(info, annotation, (*info.metadata, *metadata), (model, name))


def names(model: type[BaseModel], path: tuple[Step, ...]) -> list[str]:
    """The fields of what lies at ``path`` below ``model``; none where it is no object of ours."""
    below = model if not path else _model_at(model, path)
    return [name for name, _ in of(below)] if below else []


def find(model: type[BaseModel], path: tuple[Step, ...]) -> Field | None:
    """The field at ``path`` below ``model``, or None where there is none."""
    field: Field | None = None
    level: type[BaseModel] | None = model
    for step in path:
        if isinstance(step, int):
            if field is None or not field.is_list:
                return None
            annotation, metadata = _plain(typing.get_args(field.annotation)[0])
            field = Field(None, annotation, metadata)
        elif level is not None:
            field = dict(of(level)).get(step)
        elif field is not None and field.is_map:
            annotation, metadata = _plain(typing.get_args(field.annotation)[1])
            field = Field(None, annotation, metadata)
        elif field is not None and field.annotation is Any:
            pass  # the inside of a raw piece of a pod spec
        else:
            return None
        if field is None:
            return None
        level = None if field.is_list else field.model
    return field


def homes(model: type[BaseModel], name: str) -> list[tuple[str, ...]]:
    """Paths below ``model.spec`` of the fields called ``name``, whatever its case or underscores."""
    wanted = name.lower().replace("_", "").replace("-", "")
    spec = _model_at(model, ("spec",))
    return [path for path, _ in walk(spec) if path[-1].lower() == wanted] if spec else []


def walk(model: type[BaseModel], above: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Field]]:
    """Every field below ``model``, depth first; an element of a list of objects is called ``name[N]``."""
    for name, field in of(model):
        yield (*above, name), field
        if field.model:
            yield from walk(field.model, (*above, f"{name}[N]" if field.is_list else name))


def real_path(model: type[BaseModel], location: tuple[Step, ...]) -> tuple[Step, ...]:
    """A location of pydantic's without the parts that name no field: the members of a union, marks of keys."""
    path: tuple[Step, ...] = ()
    for step in location:
        if step == "[key]":
            continue
        if find(model, (*path, step)) is not None or _model_at(model, path) is not None or not path:
            path = (*path, step)
    return path


def _model_at(model: type[BaseModel], path: tuple[Step, ...]) -> type[BaseModel] | None:
    if not path:
        return model
    field = find(model, path)
    return field.model if field and not field.is_list else None


def _plain(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """A type without `Annotated` and `| None`, and the metadata that was around it."""
    metadata: tuple[Any, ...] = ()
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            metadata += tuple(annotation.__metadata__)
            annotation = annotation.__origin__
        elif origin in (Union, types.UnionType):
            members = [member for member in typing.get_args(annotation) if member is not type(None)]
            if len(members) != 1:
                return annotation, metadata
            annotation = members[0]
        else:
            return annotation, metadata
