"""Hyper-parameter search: a space of values becomes a list of ordinary candidates.

It happens before a configuration is checked, so nothing else knows of it: trials are trained,
memoized, selected and reported as any candidate is. A trial's name follows from its values alone.
Where a space grows, the trials that were in it keep their names, and with them what was trained.

    search:
      cnn: {model: cnn, method: grid, space: {learning_rate: [0.05, 0.1], options.units: [32, 64]}}
      wide:
        {model: cnn, method: random, trials: 6, space: {ema: [0, 0.9], epochs: {low: 2, high: 8}}}
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    Field,
    JsonValue,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    model_validator,
)

from mlpipeline.plan.section import Section

_OPTIONS = "options."
_NAME_DIGITS = 6
_LARGEST = 2**53  # beyond, a float is not every integer
_MOST_TRIALS = 1_000  # each is a training, and a task of the workflow

Trial: TypeAlias = dict[str, JsonValue]


class Dimension(Section):
    """What one hyper-parameter may be: one of a list of values, or a number of a range."""

    values: tuple[JsonValue, ...] = ()
    """The list to choose from; a list alone is short for it."""
    low: int | float | None = None
    """The least number of a range."""
    high: int | float | None = None
    """Included where both bounds are integers, as the number is then."""
    log: bool = False
    """Draw the number's logarithm uniformly, not the number."""

    @model_validator(mode="before")
    @classmethod
    def _a_list_is_short_for_its_values(cls, raw: Any) -> Any:
        return {"values": raw} if isinstance(raw, list) else raw

    @model_validator(mode="after")
    def _is_a_list_or_a_range(self) -> Dimension:
        low, high = self.low, self.high
        if self.values:
            if (low, high, self.log) != (None, None, False):
                raise ValueError("got values and a range, expected one of them")
        elif low is None or high is None or low >= high:
            raise ValueError(
                f"got low {low} and high {high}, expected some values, or low less than high"
            )
        elif max(abs(low), abs(high)) > _LARGEST:
            raise ValueError(f"got low {low} and high {high}, expected them within ±2^53")
        elif self.log and low <= 0:
            raise ValueError(f"got low {low}, expected more than 0 for a logarithmic range")
        return self

    def at(self, share: float) -> JsonValue:
        """The value at a share, 0 to 1, of the way through the list or the range."""
        if self.values:
            return self.values[int(share * len(self.values))]
        assert self.low is not None
        assert self.high is not None
        end = self.high + 1 if self._is_whole else self.high
        number = (
            self.low * (end / self.low) ** share
            if self.log
            else self.low + (end - self.low) * share
        )
        # More digits would matter to nobody and be hard to read.
        return int(number) if self._is_whole else float(f"{number:.4g}")

    @property
    def _is_whole(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)


class Search(Section):
    """Trials of one model."""

    model: str
    """A built-in model, as for a candidate, or `package.module:function` of your own."""
    method: Literal["grid", "random"]
    """Every combination of the values, or draws of them."""
    trials: PositiveInt | None = None
    """How many are drawn; where a draw repeats an earlier one, there are fewer."""
    seed: NonNegativeInt = 0
    """Random seed for drawing trials. More trials leave those before as they are."""
    space: Annotated[dict[str, Dimension], Field(min_length=1)]
    """What to try for a key of a candidate, or `options.NAME` for an argument of its function."""

    @model_validator(mode="after")
    def _method_has_what_it_needs(self) -> Search:
        ranges = [name for name, dimension in self.space.items() if not dimension.values]
        if self.method == "random" and self.trials is None:
            raise ValueError("trials is missing: expected how many to draw")
        if self.method == "grid" and self.trials is not None:
            raise ValueError(f"trials is {self.trials}: expected none with method `grid`")
        if self.method == "grid" and ranges:
            raise ValueError(
                f"space has ranges ({', '.join(ranges)}): expected lists with method `grid`"
            )
        count = self.trials or math.prod(len(each.values) for each in self.space.values())
        if count > _MOST_TRIALS:
            raise ValueError(f"it has {count} trials: expected at most {_MOST_TRIALS}")
        return self

    def expand(self) -> Iterator[Trial]:
        """Yield the trials as a configuration writes candidates."""
        for values in self._grid() if self.method == "grid" else self._draws():
            trial: Trial = {"model": self.model}
            options: Trial = {}
            for name, value in zip(self.space, values, strict=True):
                if name.startswith(_OPTIONS):
                    options[name.removeprefix(_OPTIONS)] = value
                else:
                    trial[name] = value
            yield trial | ({"options": options} if options else {})

    def _grid(self) -> Iterator[tuple[JsonValue, ...]]:
        return itertools.product(*(dimension.values for dimension in self.space.values()))

    def _draws(self) -> Iterator[tuple[JsonValue, ...]]:
        for number in range(self.trials or 0):
            # `random()` is the one method that gives the same in every version of Python.
            yield tuple(
                dimension.at(random.Random(f"{self.seed} {number} {name}").random())
                for name, dimension in self.space.items()
            )


def expand(raw: Any) -> tuple[Any, dict[str, str]]:
    """Replace the searches of a configuration by their trials.

    Args:
        raw: What a configuration file says. It may be wrong in any way: a search that cannot be
            expanded stays where it is, for the check of the configuration to complain of.

    Returns:
        The configuration with more candidates, and the name of the search that each is a trial of.
    """
    match raw:
        case {"search": dict(searches)} if searches:
            pass
        case _:
            return raw, {}
    candidates: Any = raw.get("candidates") or {}
    if not isinstance(candidates, dict):
        return raw, {}
    expanded, origins, left = dict(candidates), dict[str, str](), {}
    for search, content in searches.items():
        trials = _trials(search, content)
        if trials is None or expanded.keys() & trials:
            left[search] = content
        else:
            expanded |= trials
            origins |= {name: str(search) for name in trials}
    return {**raw, "search": left, "candidates": expanded}, origins


def _trials(search: str, content: Any) -> dict[str, Trial] | None:
    """The different trials of a search by their names; None for one that cannot be expanded."""
    trials: dict[str, Trial] = {}
    try:
        for trial in Search.model_validate(content).expand():
            digest = hashlib.sha256(json.dumps(trial, sort_keys=True).encode()).hexdigest()
            if trials.setdefault(f"{search}-{digest[:_NAME_DIGITS]}", trial) != trial:
                return None
    except ValidationError:
        return None
    return trials


def place_in_space(location: tuple[Any, ...], origins: dict[str, str]) -> tuple[Any, ...]:
    """Where a search says what is wrong with a trial; other locations are returned as they are."""
    match location:
        case ("candidates", name, "options", option, *rest) if name in origins:
            return ("search", origins[name], "space", f"{_OPTIONS}{option}", *rest)
        case ("candidates", name, "model" | "[key]", *rest) if name in origins:
            return ("search", origins[name], location[2], *rest)
        case ("candidates", name, *rest) if name in origins:
            return ("search", origins[name], "space", *rest)
    return location
