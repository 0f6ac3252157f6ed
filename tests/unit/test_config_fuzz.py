"""Whatever is done to a configuration: it is right, or a clear error, and soon.

`CASES=100000 pytest tests/unit/test_config_fuzz.py` tries more of them.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import pipeline
from mlpipeline.plan.config import Config, load, write

SHIPPED = sorted(Path(__file__).parents[2].joinpath("configs").glob("*.yaml"))
CASES = int(os.environ.get("CASES", "300"))
SEED = int(os.environ.get("FUZZ_SEED", "12"))

# What was met in bug reports of programs that read YAML, and what is at the edge of a type.
WORDS = (
    *(
        "017",
        "0o17",
        "1_000",
        "1e-3",
        "1:30",
        "0x1F",
        "0b1",
        "1e400",
        "-.inf",
        ".nan",
        "-0",
        "9" * 5_000,
    ),
    *(
        "yes",
        "no",
        "on",
        "off",
        "y",
        "null",
        "~",
        "",
        "true",
        "2024-01-01",
        "2024-13-45",
        "<<",
        "=",
    ),
    *(
        "!!python/name:os.system x",
        "!!python/object/apply:os.system [id]",
        "!!binary aGk=",
        "!!set {a, b}",
    ),
    *(
        "!!timestamp x",
        "!!bool x",
        "!!int x",
        "!x y",
        "&a [*a]",
        "*nobody",
        "{a: &b {c: *b}}",
        "? [a]",
    ),
    *(
        "\t",
        "\x00",
        "\x07",
        "\ufeff",
        "\ud800",
        '"\\ud800"',
        '"\\ud83d\\ude00"',
        '"\\0"',
        "é",
        "🙂",
        "%",
        "@",
        "`",
    ),
    *(
        "{",
        "[",
        "}",
        "]",
        ":",
        ": ",
        "- ",
        "#",
        "|",
        ">",
        "'",
        '"',
        "---\n",
        "...\n",
        "\r",
        "\u2028",
    ),
    *(
        "cnn",
        "residual",
        "os:system",
        "random",
        "grid",
        "options.units",
        "single",
        "parameter_server",
    ),
    *("0", "1", "-1", "2", "65535", "65536", "4294967296", "1000000000", "3.5", "[]", "{}", "[[]]"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2, 3.5, 1e308, float("inf"), float("nan"), 2**31, 2**64, 10**30),
    *(
        "",
        " ",
        "a b",
        "017",
        "1e-3",
        "cnn",
        "synthetic",
        "on",
        "../x",
        "x" * 300,
        "é",
        "\x00",
        "a\nb",
    ),
    *(
        [],
        [[]],
        {},
        {"": {}},
        {"a": {"b": {"c": 1}}},
        [1, "a", None],
        ["0.1", 0.1],
        {1: 2},
        {True: 1},
    ),
    *({"low": 0, "high": 1}, {"low": 1, "high": 10**12, "log": True}, {"values": [1] * 40}),
)


def _mutated_text(draw: random.Random, text: str) -> str:
    """The text with some of its parts taken away, repeated, moved or replaced."""
    for _ in range(draw.randint(1, 4)):
        lines = text.splitlines(keepends=True) or [""]
        place, line = draw.randrange(len(text) + 1), draw.randrange(len(lines))
        until = min(len(text), place + draw.choice([1, 1, 3, 30]))
        word = draw.choice(WORDS)
        after = text.find(": ", place)
        end = min(i for i in (text.find("\n", after), text.find(",", after), len(text)) if i >= 0)
        text = draw.choice(
            [
                text[:place] + text[until:],
                text[:place] + word + text[place:],
                text[:after] + ": " + word + text[end:],
                "".join([*lines[:line], lines[line], *lines[line:]]),
                "".join([*lines[:line], "  ", *lines[line:]]),
                "".join([*lines[:line], *lines[line + 1 :]]),
                text[:place] + text[place:].replace(draw.choice(text or " "), word, 1),
            ]
        )
    return text


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    """All containers of a tree, each with one of its keys."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], (dict, list)):
            yield from _places(tree[key])


def _mutated_tree(draw: random.Random, text: str) -> str:
    """The same configuration with some of its values or keys replaced."""
    tree = yaml.safe_load(text)
    for _ in range(draw.randint(1, 4)):
        place, key = draw.choice([*_places(tree)] or [(tree, "name")])
        match draw.randrange(4):
            case 0 if isinstance(place, dict):
                place[draw.choice(["training", "search", "on", 3, None, "workers", "é"])] = (
                    place.pop(key, None)
                )
            case 1:
                other, one = draw.choice([*_places(tree)] or [({1: 1}, 1)])
                place[key] = json.loads(json.dumps(other[one], default=str))
            case 2 if isinstance(place, dict):
                place.pop(key, None)
            case _:
                place[key] = copy.deepcopy(draw.choice(VALUES))
    return yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)


def _loaded(file: Path) -> Config | None:
    try:
        return load(file)
    except ConfigurationError as raised:
        error = raised
    assert str(file) in error.got
    assert str(error).encode()
    return None


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutated", [_mutated_text, _mutated_tree], ids=["text", "tree"])
def test_a_mutated_configuration_is_right_or_a_clear_error(
    tmp_path: Path, mutated: Callable[[random.Random, str], str]
) -> None:
    file, again = tmp_path / "some.yaml", tmp_path / "again.yaml"
    accepted = 0
    for case in range(CASES // 2):
        draw = random.Random(f"{SEED} {case}")
        text = mutated(draw, draw.choice(SHIPPED).read_text())
        encoding = draw.choice(["utf-8"] * 20 + ["utf-8-sig", "utf-16", "latin-1"])
        file.write_bytes(text.encode(encoding, "surrogatepass" if "utf" in encoding else "replace"))
        config = _loaded(file)
        if config is None:
            continue
        accepted += 1
        with contextlib.suppress(ConfigurationError):  # of a function that is not there
            assert pipeline.plan(config), f"case {case}"
        json.dumps(config.model_dump(mode="json"), allow_nan=False).encode()
        write(config, again)
        assert load(again) == config, f"case {case}"
    assert CASES // 40 < accepted < CASES // 2, "what is mutated is right now and then"
