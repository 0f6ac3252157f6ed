"""Names in a configuration that stand for functions, one's own among them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import ConfigurationError
from mlpipeline.learning.plugins import resolve

BUILTIN: dict[str, Callable[..., Any]] = {"cnn": len, "dropout": max}


def test_a_builtin_name_is_the_function() -> None:
    assert resolve("cnn", BUILTIN, kind="model") is len


def test_a_reference_is_a_function_of_a_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_functions_of_this_test.py").write_text("def tiny():\n    return 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    try:
        assert resolve("own_functions_of_this_test:tiny", BUILTIN, kind="model")() == 7
    finally:
        sys.modules.pop("own_functions_of_this_test", None)


def test_an_unknown_name_gets_the_nearest_one_and_the_list() -> None:
    with pytest.raises(ConfigurationError) as raised:
        resolve("drop_out", BUILTIN, kind="model")
    assert raised.value.got == "unknown model `drop_out`; did you mean `dropout`?"
    assert "cnn, dropout" in raised.value.expected


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(ConfigurationError) as raised:
        resolve("zzz", BUILTIN, kind="data set")
    assert raised.value.got == "unknown data set `zzz`"


@pytest.mark.parametrize(
    "reference",
    [
        "no_such_module:f",
        "json:no_such_function",
        "json:",
        ":loads",
        ".json:loads",
        "js on:f",
        "a..b:f",
    ],
)
def test_a_function_that_cannot_be_imported_is_named(reference: str) -> None:
    with pytest.raises(ConfigurationError, match=r"the model `.*` cannot be imported") as raised:
        resolve(reference, BUILTIN, kind="model")
    assert f"`{reference}`" in raised.value.got


def test_what_is_no_function_is_said_to_be_none() -> None:
    with pytest.raises(ConfigurationError, match="`sys:path` is a list"):
        resolve("sys:path", BUILTIN, kind="model")


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("open('no such table')", "FileNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("function = scale", "NameError"),
    ],
)
def test_a_module_that_fails_when_it_is_imported_is_named_with_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, why: str
) -> None:
    (tmp_path / "fails_at_once.py").write_text(f"{code}\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError, match=rf"`fails_at_once:function`.*{why}.*line 1\)"):
        resolve("fails_at_once:function", {}, kind="model")
