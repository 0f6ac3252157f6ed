"""How configurations are read from YAML, and written: what reads two ways is refused.

YAML 1.1, which PyYAML speaks, and YAML 1.2, which most editors and other tools speak, take some
plain words for different things. The rules here:

- A key is its text: `on`, `no`, `2024-01-01` and `3` may be names of candidates.
- `1e-3` is a number, and a date is text, as in YAML 1.2; `yes` and `off` are true and false.
- `017` (15 or 17?), `0o17` (15 or text?) and `1:30` (90 or text?) are errors: write 17, or quotes.
- A key that is there twice, a tag such as `!!python/name`, and an alias inside of what it stands
  for are errors. Anchors, aliases and `<<` are not.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

_STR, _FLOAT = "tag:yaml.org,2002:str", "tag:yaml.org,2002:float"
_TIMESTAMP, _AMBIGUOUS = "tag:yaml.org,2002:timestamp", "tag:mlpipeline:ambiguous"
_READS_TWO_WAYS = re.compile(
    r"[-+]?(0_*[0-9][0-9_]*|0o[0-7_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.\d*)?)$"
)
_EXPONENT = re.compile(r"[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
_MOST_NODES = 100_000  # aliases of aliases of aliases: a short text may stand for gigabytes


def _resolvers() -> dict[str, list[tuple[str, re.Pattern[str]]]]:
    """PyYAML's table of what a plain word is, by its first character, with the rules above."""
    kept = {
        first: [(tag, form) for tag, form in rules if tag != _TIMESTAMP]
        for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    own = [(_AMBIGUOUS, _READS_TWO_WAYS), (_FLOAT, _EXPONENT)]
    return kept | {first: own + kept.get(first, []) for first in "+-.0123456789"}


class _Loader(yaml.SafeLoader):
    """Reads by the rules of this module."""

    yaml_implicit_resolvers = _resolvers()

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose a node, unless it says its own type."""
        event = self.peek_event()  # type: ignore[no-untyped-call]  # PyYAML is untyped
        if getattr(event, "tag", None) not in (None, "!"):
            raise _problem(f"found the tag `{event.tag}`", event, "a plain value")
        return super().compose_node(parent, index)

    def compose_scalar_node(self, anchor: Any) -> Any:
        """Compose a value, unless it reads two ways or has half a character."""
        node = super().compose_scalar_node(anchor)
        try:  # JSON writes some characters as two escapes
            node.value = node.value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            raise _problem("found half a character", node, "both of its escapes") from None
        if node.tag == _AMBIGUOUS:
            expected = "a decimal number without leading zeros, or the text in quotes"
            raise _problem(f"found `{node.value}`, which readers disagree about", node, expected)
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Compose a mapping, and compare its keys before others are merged into it."""
        node = super().compose_mapping_node(anchor)
        seen = dict[str, Any]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _problem("found a key that is a list or a mapping", key, "a word")
            if key.tag != "tag:yaml.org,2002:merge":
                key.tag = _STR
            if (first := seen.setdefault(key.value, key)) is not key:
                raise yaml.composer.ComposerError(
                    f"found the key `{key.value}` twice: first here",
                    first.start_mark,
                    "and then here",
                    key.start_mark,
                )
        return node

    def get_single_node(self) -> Any:
        """Compose the document, unless its aliases make it endless, or very large."""
        node = super().get_single_node()
        if node is not None:
            _measure(node, {})
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes whatever `_Loader` would not read as text."""

    yaml_implicit_resolvers = _resolvers()

    def ignore_aliases(self, data: Any) -> bool:
        """Write out what is there twice: it is easier to read."""
        return True


def read(text: str) -> Any:
    """Return what YAML says.

    Args:
        text: One document.

    Raises:
        ValueError: It is not YAML, or not by the rules of this module; names the line.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.reader.ReaderError as error:
        raise ValueError(f"it has the character {error.character:#x}, which is no text") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error


def write(content: Any) -> str:
    """Return YAML that `read` takes for `content` again.

    Args:
        content: What JSON can say.
    """
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _measure(node: Any, known: dict[int, int]) -> int:
    """Return how many nodes there are below one, each counted as often as it is referred to."""
    if id(node) in known:
        if known[id(node)] == 0:
            raise _problem(
                "found an alias inside of what it stands for", node, "a value with an end"
            )
        return known[id(node)]
    known[id(node)] = 0
    children = node.value if isinstance(node, yaml.CollectionNode) else []
    if isinstance(node, yaml.MappingNode):
        children = [each for pair in children for each in pair]
    size = 1 + sum(_measure(child, known) for child in children)
    if size > _MOST_NODES:
        raise _problem(f"found {size} values", node, f"at most {_MOST_NODES}, aliases written out")
    known[id(node)] = size
    return size


def _problem(got: str, at: Any, expected: str) -> yaml.YAMLError:
    return yaml.composer.ComposerError(None, None, f"{got}; expected {expected}", at.start_mark)
