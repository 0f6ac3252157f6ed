"""How pages write figures: one format for each kind, and a dash for what is not known."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeGuard

import yaml
from jinja2 import ChainableUndefined, Environment, PackageLoader, Template

_UNKNOWN = "\N{EN DASH}"
_NARROW_SPACE = "\N{NARROW NO-BREAK SPACE}"
_NO_BREAK = "\N{NO-BREAK SPACE}"


def percent(share: object, digits: int = 2) -> str:
    """Write a share; what only rounds to nothing or to all of it is not said to be that."""
    if not _is_known(share):
        return _UNKNOWN
    least = 0.1**digits
    if 0 < share < least / 200:
        return f"<{least:.{digits}f}%"
    if 1 - least / 200 < share < 1:
        return f">{100 - least:.{digits}f}%"
    return f"{100 * share:.{digits}f}%"


def count(number: object) -> str:
    """Write a number of things, with a narrow space between thousands."""
    return f"{number:,.0f}".replace(",", _NARROW_SPACE) if _is_known(number) else _UNKNOWN


def decimal(number: object, digits: int = 4) -> str:
    """Write a number with so many digits after the point."""
    return f"{number:.{digits}f}" if _is_known(number) else _UNKNOWN


def difference(number: object) -> str:
    """Write a tiny number, such as the largest difference between two answers."""
    if not _is_known(number):
        return _UNKNOWN
    return f"{number:.1e}" if number else "0"


def duration(seconds: object) -> str:
    """Write seconds as a person says them: `0.4 s`, `42 s`, `3 min 05 s`, `1 h 02 min`."""
    if not _is_known(seconds):
        return _UNKNOWN
    if seconds < 9.95:
        return f"{seconds:.1f}{_NO_BREAK}s"
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded}{_NO_BREAK}s"
    if rounded < 3600:
        return f"{rounded // 60}{_NO_BREAK}min{_NO_BREAK}{rounded % 60:02d}{_NO_BREAK}s"
    return f"{rounded // 3600}{_NO_BREAK}h{_NO_BREAK}{rounded % 3600 // 60:02d}{_NO_BREAK}min"


def moment(iso: str) -> str:
    """Write an ISO time as a person does; leave what is none as it is."""
    try:
        time = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return f"{time.day} {time:%B %Y, %H:%M %Z}".strip()


def short(name: str, most: int = 48) -> str:
    """Write a name on one line, cut where it is longer than `most` characters."""
    name = " ".join(name.split())
    return name if len(name) <= most else f"{name[: most - 1]}\N{HORIZONTAL ELLIPSIS}"


def as_yaml(content: Any) -> str:
    """Write nested settings as YAML, in the order in which they are given."""
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).rstrip()


def _is_known(number: object) -> TypeGuard[float]:
    """Whether there is a number: what a run did not get to is None or undefined in the template."""
    return isinstance(number, int | float)


FILTERS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (percent, count, decimal, difference, duration, moment, short, as_yaml)
}


def template(name: str) -> Template:
    """Return a page's template; names and messages are the user's, so everything is escaped."""
    environment = Environment(
        loader=PackageLoader("mlpipeline.runs.report", ""),
        autoescape=True,
        undefined=ChainableUndefined,  # what a run did not get to is shown as a dash
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= FILTERS
    return environment.get_template(name)
