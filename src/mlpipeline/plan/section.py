"""The bases of every section of a configuration file, and of what events say."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class FixedKeys(BaseModel):
    """A mapping with fixed keys: frozen, without unknown keys, without numbers that are none."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Section(FixedKeys):
    """A section of a configuration file, where YAML's `yes` is true, and no number."""

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what pydantic would take for 1 or 0."""
        of_a_list = value if isinstance(value, (list, tuple)) else (value,)
        if any(isinstance(each, bool) for each in of_a_list):
            assert info.field_name is not None, "it is called for fields"
            kinds = set(_kinds(cls.model_fields[info.field_name].annotation))
            if kinds & {int, float} and not kinds & {bool, str, dict}:
                raise ValueError(f"got {value!r}, expected a number")
        return value


def _kinds(annotation: Any) -> Iterator[Any]:
    """Yield the types that an annotation is made of; of literal values, their types."""
    if parts := typing.get_args(annotation):
        for part in parts:
            yield from _kinds(part)
    elif hasattr(annotation, "__value__"):  # a name for another one, such as JsonValue
        yield from (dict,)
    else:
        yield annotation if isinstance(annotation, type) else type(annotation)
