"""How large libraries are imported: what Python does not do meanwhile, and all is as before."""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlpipeline import loading


@pytest.fixture(autouse=True)
def unfrozen() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture
def optional(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a library that Keras could do without."""
    name = "optional_library"
    (tmp_path / f"{name}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(loading, "_BESIDE_KERAS", (name,))
    yield name
    sys.modules.pop(name, None)


def test_no_garbage_is_looked_for_until_all_is_imported() -> None:
    with loading.large_libraries():
        assert not gc.isenabled()
        made = [[number] for number in range(1000)]
    assert gc.isenabled()
    assert gc.get_freeze_count() > len(made)


def test_it_is_looked_for_again_after_a_failed_import() -> None:
    with pytest.raises(ImportError), loading.large_libraries():
        raise ImportError
    assert gc.isenabled()


def test_an_optional_library_is_not_found_at_first_and_is_later(optional: str) -> None:
    with loading.tensorflow(), pytest.raises(ImportError):
        importlib.import_module(optional)
    importlib.import_module(optional)


def test_an_optional_library_that_is_imported_already_stays(optional: str) -> None:
    module = importlib.import_module(optional)
    with loading.tensorflow():
        assert importlib.import_module(optional) is module
    assert sys.modules[optional] is module
