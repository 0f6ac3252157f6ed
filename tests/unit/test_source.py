"""The version of a step's code: it changes with what a result can depend on, and nothing else."""

from __future__ import annotations

import importlib
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import fingerprint, modules
from mlpipeline.plan.config import module_of
from mlpipeline.plan.fingerprint import code_version

MODULES = {
    "__init__.py": "",
    "training.py": """
import json
import yaml
from shop.models import build
from . import data

def train():
    from shop import late
    return build(), data.load(), late.save()
""",
    "models.py": "from .parts.layer import LAYER\n\ndef build():\n    return LAYER\n",
    "data.py": "SHARDS = 8\n\ndef load():\n    return SHARDS\n",
    "late.py": "def save():\n    return 1\n",
    "parts/__init__.py": "",
    "parts/layer.py": "from .. import deep\n\nLAYER = deep.DEEP\n",
    "deep.py": "DEEP = 3\n",
    "other.py": "OTHER = 1\n",
}


def _forget() -> None:
    """As a new process would see the files."""
    importlib.invalidate_caches()
    for remembered in (
        *(code_version, fingerprint._code),
        *(modules.origin, modules.reached, modules._imported, modules._is_library),
    ):
        remembered.cache_clear()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package `shop`, whose step `shop.training` imports the others in all the ways there are."""
    for name, text in MODULES.items():
        file = tmp_path / "shop" / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    yield tmp_path / "shop"
    _forget()


def _changes(package: Path, file: str, change: Callable[[str], str]) -> bool:
    """Whether the version of `shop.training` changes with a file."""
    before = code_version("shop.training")
    path = package / file
    text = path.read_text()
    assert change(text) != text
    path.write_text(change(text))
    _forget()
    return code_version("shop.training") != before


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("training.py", "return build()", "return 2 * build()"),
        ("models.py", "return LAYER", "return -LAYER"),
        ("data.py", "SHARDS = 8", "SHARDS = 9"),
        ("late.py", "return 1", "return 2"),
        ("parts/layer.py", "deep.DEEP", "deep.DEEP + 1"),
        ("deep.py", "3", "4"),
    ],
    ids=["own", "from-import", "relative", "within-a-function", "relative-twice", "indirect"],
)
def test_it_changes_with_the_code_that_is_run(package: Path, file: str, old: str, new: str) -> None:
    assert _changes(package, file, lambda text: text.replace(old, new))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "# why\n" + text,
        lambda text: text.replace("= 8", '= 8\n"""Files, under the field."""'),
        lambda text: '"""What it is."""\n' + text,
        lambda text: text.replace("    return", '    """Return it."""\n    return'),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: text.replace("= 8", "=  (8)  # a multiple of the workers"),
    ],
    ids=[
        "comment",
        "field-docstring",
        "module-docstring",
        "docstring",
        "blank-lines",
        "formatting",
    ],
)
def test_it_does_not_change_with_what_only_people_read(
    package: Path, change: Callable[[str], str]
) -> None:
    assert not _changes(package, "data.py", change)


def test_it_does_not_change_with_code_that_is_not_imported(package: Path) -> None:
    assert not _changes(package, "other.py", lambda text: text.replace("1", "2"))


def test_a_string_that_is_no_docstring_counts(package: Path) -> None:
    assert _changes(package, "data.py", lambda text: text.replace("= 8", '= "8"'))


def test_it_changes_with_the_version_of_a_library_that_is_imported(
    package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = code_version("shop.training")
    version = metadata.version

    def upgraded(changed: str) -> Callable[[str], str]:
        return lambda name: "99" if name.lower() == changed else version(name)

    monkeypatch.setattr(metadata, "version", upgraded("pillow"))
    _forget()
    assert code_version("shop.training") == before
    monkeypatch.setattr(metadata, "version", upgraded("pyyaml"))
    _forget()
    assert code_version("shop.training") != before


def test_what_reads_image_files_counts_where_files_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another Pillow makes other images of files: no other training of the same images."""

    def codes() -> dict[str, str]:
        _forget()
        steps = ("ingestion", "training", "selection", "serving", "batch_prediction")
        return {step: code_version(f"mlpipeline.steps.{step}") for step in steps}

    before, version = codes(), metadata.version
    monkeypatch.setattr(
        metadata, "version", lambda name: "99" if name.lower() == "pillow" else version(name)
    )
    changed = {step for step, code in codes().items() if code != before[step]}
    assert changed == {"ingestion", "batch_prediction"}


def test_a_module_with_a_users_own_model_counts(package: Path) -> None:
    alone = code_version("mlpipeline.progress")
    with_plugin = code_version("mlpipeline.progress", "shop.models")
    (package / "deep.py").write_text("DEEP = 4\n")
    _forget()
    assert code_version("mlpipeline.progress") == alone
    assert len({alone, with_plugin, code_version("mlpipeline.progress", "shop.models")}) == 3


def test_the_order_in_which_modules_are_named_does_not_matter(package: Path) -> None:
    assert code_version("shop.models", "shop.data") == code_version("shop.data", "shop.models")


def test_a_module_in_a_folder_without_init_is_found(package: Path) -> None:
    (package / "__init__.py").unlink()
    _forget()
    assert _changes(package, "deep.py", lambda text: text.replace("3", "4"))


@pytest.mark.parametrize(
    "module", ["no_such_module", "shop.no_such_module", "shop.data.x", "", "..x", "__main__"]
)
def test_a_module_that_is_not_there_is_an_error_that_names_it(package: Path, module: str) -> None:
    with pytest.raises(ConfigurationError, match="no Python module") as raised:
        code_version(module)
    assert f"`{module}`" in raised.value.got


@pytest.mark.parametrize("content", [b"def build(:\n", b"x = 1\0\n", b"NAME = '\xff'\n"])
def test_a_module_that_is_no_python_is_an_error_that_says_where(
    package: Path, content: bytes
) -> None:
    (package / "models.py").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"module `shop\.models` cannot be read") as raised:
        code_version("shop.training")
    assert str(package / "models.py") in raised.value.expected


def test_a_module_in_an_encoding_that_it_names_counts(package: Path) -> None:
    (package / "data.py").write_bytes("# coding: latin-1\nNAME = 'ä'\n".encode("latin-1"))
    before = code_version("shop.training")
    (package / "data.py").write_bytes("# coding: latin-1\nNAME = 'ö'\n".encode("latin-1"))
    _forget()
    assert code_version("shop.training") != before


def test_it_imports_neither_the_step_nor_tensorflow() -> None:
    script = """
import sys
from mlpipeline.plan.fingerprint import code_version
before = {name for name in sys.modules if name.startswith("mlpipeline")}
print(code_version("mlpipeline.steps.training"))
assert {name for name in sys.modules if name.startswith("mlpipeline")} == before
assert not {"tensorflow", "keras", "numpy"} & sys.modules.keys()
"""
    ran = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == code_version("mlpipeline.steps.training")  # in every process


@pytest.mark.parametrize(
    ("reference", "module"),
    [("cnn", None), ("shop.models:build", "shop.models"), ("models:build", "models")],
)
def test_the_module_of_a_reference(reference: str, module: str | None) -> None:
    assert module_of(reference) == module


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's own modules: `mydata.py` and what it imports, which is no package of one name."""
    files = {
        "mydata.py": "from helper import SCALE\n\ndef data():\n    return SCALE\n",
        "helper.py": "SCALE = 1\n",
        "space/sub/part.py": "PART = 1\n",
        "family/__init__.py": "FIRST = 1\n",
        "family/child.py": "CHILD = 1\n",
        "family/other.py": "OTHER = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    _forget()
    yield tmp_path
    _forget()


@pytest.mark.parametrize(
    ("code", "file"),
    [
        ("from helper import SCALE", "helper.py"),
        ("import helper as h", "helper.py"),
        ("from helper import *", "helper.py"),
        ("try:\n    import helper\nexcept ImportError:\n    helper = None", "helper.py"),
        ("def data():\n    import helper", "helper.py"),
        ("import importlib\nhelper = importlib.import_module('helper')", "helper.py"),
        ("from importlib import import_module\nimport_module('helper')", "helper.py"),
        ("helper = __import__('helper')", "helper.py"),
        ("from importlib import import_module as load\nload('helper')", "helper.py"),
        (
            "import importlib\n\ndef data(name):\n"
            "    return importlib.import_module(f'family.{name}')",
            "family/child.py",
        ),
        (
            "import importlib\n\ndef data(name):\n"
            "    return importlib.import_module('family.' + name)",
            "family/child.py",
        ),
        ("import space.sub.part as p", "space/sub/part.py"),
        ("from space.sub import part", "space/sub/part.py"),
        ("import family.child", "family/child.py"),
        ("import family.child", "family/__init__.py"),
        ("from family import child", "family/__init__.py"),
        ("from family import *", "family/child.py"),
    ],
)
def test_every_module_of_ones_own_counts_however_it_is_imported(
    project: Path, code: str, file: str
) -> None:
    (project / "family/__init__.py").write_text("__all__ = ['child']\n")
    (project / "mydata.py").write_text(f"{code}\n")
    before = code_version("mydata")
    path = project / file
    path.write_text(path.read_text() + "MORE = 1\n")
    _forget()
    assert code_version("mydata") != before
    assert not {"mydata", "helper", "space", "family"} & sys.modules.keys()


def test_a_relative_import_by_name_is_followed(project: Path) -> None:
    (project / "family/child.py").write_text(
        "import importlib\nimportlib.import_module('.other', __package__)\n"
    )
    assert "family.other" in modules.reached("family.child").own


def test_a_module_that_is_not_imported_does_not_count(project: Path) -> None:
    assert modules.reached("mydata").own == {"mydata", "helper"}


def test_what_it_imports_of_ours_counts(project: Path) -> None:
    (project / "helper.py").write_text("from mlpipeline.learning.data import Dataset\n")
    assert "mlpipeline.learning.data" in modules.reached("mydata").modules
    assert modules.reached("mydata").own == {"mydata", "helper"}


@pytest.mark.parametrize("suffix", [EXTENSION_SUFFIXES[0], ".pyc"])
def test_a_compiled_module_counts_by_its_content(project: Path, suffix: str) -> None:
    (project / "helper.py").unlink()
    (project / f"helper{suffix}").write_bytes(b"\x7fELF 1")
    _forget()
    before = code_version("mydata")
    (project / f"helper{suffix}").write_bytes(b"\x7fELF 2")
    _forget()
    assert code_version("mydata") != before


def test_a_module_in_an_archive_counts(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pack(scale: int) -> None:
        with zipfile.ZipFile(project / "more.zip", "w") as archive:
            archive.writestr("helper.py", f"SCALE = {scale}\n")
        _forget()

    (project / "helper.py").unlink()
    pack(1)
    monkeypatch.syspath_prepend(project / "more.zip")
    before = code_version("mydata")
    pack(2)
    assert code_version("mydata") != before


def test_a_module_of_another_package_that_is_no_python_counts_by_its_bytes(project: Path) -> None:
    (project / "helper.py").write_text("print 'for Python 2'\n")
    before = code_version("mydata")
    (project / "helper.py").write_text("print 'for Python 2.7'\n")
    _forget()
    assert code_version("mydata") != before


def _install(site: Path, name: str, *, module: bool, record: bool = True) -> None:
    """Leave what an installer leaves: the metadata of a distribution, and perhaps its module."""
    about = site / f"{name}-1.0.{'dist-info' if record else 'egg-info'}"
    about.mkdir(parents=True)
    metadata_file = about / ("METADATA" if record else "PKG-INFO")
    metadata_file.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (about / "top_level.txt").write_text(f"{name}\n")
    if record:
        (about / "RECORD").write_text(f"{name}.py,,\n")
    if module:
        (site / f"{name}.py").write_text("SCALE = 1\n")


@pytest.mark.parametrize(
    ("folder", "record", "is_own"),
    [
        ("site-packages", True, False),
        ("site-packages", False, False),
        ("target", True, False),  # pip install --target
        ("source", False, True),  # setup.py develop
    ],
)
def test_a_library_counts_by_its_version_and_what_is_edited_by_its_code(
    project: Path, monkeypatch: pytest.MonkeyPatch, folder: str, record: bool, is_own: bool
) -> None:
    (project / "helper.py").unlink()
    (project / "mydata.py").write_text("import helpful\n")
    _install(project / folder, "helpful", module=True, record=record)
    monkeypatch.syspath_prepend(project / folder)
    modules.distributions.cache_clear()
    _forget()
    assert ("helpful" in modules.reached("mydata").own) == is_own


def test_a_package_that_is_installed_to_be_edited_is_ones_own(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata are among the libraries, its files where somebody edits them."""
    (project / "mydata.py").write_text("import helpful\n")
    _install(project / "site-packages", "helpful", module=False)
    (project / "elsewhere").mkdir()
    (project / "elsewhere/helpful.py").write_text("SCALE = 1\n")
    monkeypatch.syspath_prepend(project / "site-packages")
    monkeypatch.syspath_prepend(project / "elsewhere")
    modules.distributions.cache_clear()
    _forget()
    before = code_version("mydata")
    (project / "elsewhere/helpful.py").write_text("SCALE = 2\n")
    _forget()
    assert code_version("mydata") != before
