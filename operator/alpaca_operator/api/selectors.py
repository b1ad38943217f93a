"""Label selectors, as Kubernetes has them."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.model import Spec
from alpaca_operator.api.rules import Rule

LabelKey = Annotated[str, StringConstraints(min_length=1, max_length=317)]
LabelValue = Annotated[str, StringConstraints(max_length=63)]


class LabelRequirement(Spec):
    """What a label has to be."""

    key: LabelKey
    """The label."""
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """Whether its value has to be among `values`, or must not be; or whether it has to be there at all."""
    values: list[LabelValue] = Field(default_factory=list, max_length=16)
    """With `In` and `NotIn`."""

    rules: ClassVar = (
        Rule(
            cel="(self.operator in ['In', 'NotIn']) == (has(self.values) && size(self.values) > 0)",
            holds=lambda wanted: (wanted.operator in ("In", "NotIn")) == bool(wanted.values),
            message="matchExpressions: In and NotIn need values, Exists and DoesNotExist have none: add or remove them",
        ),
    )

    def holds(self, labels: Mapping[str, str]) -> bool:
        match self.operator:
            case "In":
                return labels.get(self.key) in self.values
            case "NotIn":
                return labels.get(self.key) not in self.values
            case "Exists":
                return self.key in labels
            case "DoesNotExist":
                return self.key not in labels


class LabelSelector(Spec):
    """Labels that objects have to have; all of them, and an empty one takes every object."""

    match_labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=16)
    """Labels with their values."""
    match_expressions: list[LabelRequirement] = Field(default_factory=list, max_length=16)
    """What else labels have to be."""

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is taken."""
        equal = all(labels.get(key) == value for key, value in self.match_labels.items())
        return equal and all(wanted.holds(labels) for wanted in self.match_expressions)
