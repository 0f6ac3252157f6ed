"""README and docs/: every command is known, every link leads somewhere, all parts are there."""

from __future__ import annotations

import ast
import functools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

import reference_pages
from reference import command_line, versions
from support import documents
from support.documents import ROOT, Block

BLOCKS = [block for block in documents.all_blocks() if block.holds_commands]
PATTERNS = sorted(p for p in (ROOT / "docs" / "patterns").glob("*.md") if p.stem != "index")
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z0-9-]+):", MAKEFILE, re.MULTILINE))
# What a command may begin with. Another one: think of who has it, then add it.
PROGRAMS = {"argo", "cd", "curl", "docker", "git", "jq", "kind", "kubectl", "ls", "make"}
PROGRAMS |= {"mlpipeline", "openssl", "pip", "pytest", "python", "sed", "source"}
OWN = {".venv/bin/mlpipeline", ".venv/bin/pytest", ".venv/bin/python"}
OF_A_SMALL_MACHINE = {"python3", ".venv/bin/pip"}
OF_A_GPU = {"python3.11", ".venv-gpu/bin/pip", ".venv-gpu/bin/mlpipeline"}


def name_of(block: Block) -> str:
    return f"{block.page}: {(block.commands or ['?'])[0]}"


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_every_command_is_run_by_a_test_or_listed_with_a_reason(block: Block) -> None:
    assert block.commands, "a block of commands has lines that begin with `$ `"
    assert block.ring in documents.RINGS, "say before the block what a test does with it"
    assert block.remark if block.ring == "none" else block.remark in ("", f"until {block.until}")


def test_the_rings_are_not_empty() -> None:
    rings = [block.ring for block in documents.all_blocks()]
    assert all(rings.count(ring) > 1 for ring in documents.RINGS)


@pytest.mark.parametrize("block", BLOCKS, ids=name_of)
def test_every_command_is_one_that_there_is(block: Block) -> None:
    for command in block.commands:
        words = shlex.split(command, comments=True)
        while "=" in words[0]:
            words.pop(0)
        assert words[0] in PROGRAMS | OWN | OF_A_GPU | OF_A_SMALL_MACHINE, command
        if words[0] == "make":
            check_make(words[1:])
        if words[0].endswith("mlpipeline"):
            check_mlpipeline(words[1:])
        for path in re.findall(r"(?<![\w/])(?:configs|tests|workflows|docker)/[\w./-]+", command):
            assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", documents.pages(), ids=lambda page: page.stem)
def test_commands_within_sentences_are_ones_that_there_are(page: Path) -> None:
    for command in re.findall(r"`(make [^`]+)`", page.read_text()):
        check_make([word for word in shlex.split(command)[1:] if "|" not in word])


def check_make(words: list[str]) -> None:
    for word in words:
        variable, is_set, _ = word.partition("=")
        if is_set:
            used = (f"$({variable}", f"$(call quoted,{variable})")
            assert any(each in MAKEFILE for each in used), f"make knows no variable {variable}"
        elif word != "...":
            assert word in TARGETS, f"make has no target {word}"


def check_mlpipeline(words: list[str]) -> None:
    known = dict(command_line.commands())
    called = f"mlpipeline {' '.join(words)} "
    path = max((path for path in known if called.startswith(f"{path} ")), key=len)
    options = {name for parameter in known[path].params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


@pytest.mark.parametrize("page", documents.pages(), ids=lambda page: page.stem)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "", page.read_text())
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    lost = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not lost


def test_the_generated_parts_are_what_the_code_says() -> None:
    stale = [
        file.relative_to(ROOT).as_posix()
        for file, content in reference_pages.generated().items()
        if not file.exists() or file.read_text() != content
    ]
    assert not stale, "make reference writes them anew"


@pytest.mark.parametrize("page", PATTERNS, ids=lambda page: page.stem)
def test_a_pattern_s_page_has_all_parts(page: Path) -> None:
    text = page.read_text()
    parts = ["## Problem", "## Here", "```mermaid", "## Where in the code", "## See it work"]
    parts += ["## How it is tested", "## When not"]
    places = [text.find(part) for part in parts]
    assert -1 not in places
    assert places == sorted(places)
    for table in (ROOT / "README.md", ROOT / "docs" / "patterns" / "index.md"):
        assert f"{page.stem}.md)" in table.read_text()


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_versions_that_have_to_agree_do() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in documents.pages():
        for version in re.findall(r"mlpipeline:(\d+\.\d+\.\d+)", page.read_text()):
            assert version == project["version"], page
    argo = versions.find(
        ROOT / "manifests/platform/argo-workflows/kustomization.yaml", r"\?ref=([^&\s]+)"
    )
    for workflow in (ROOT / ".github" / "workflows").glob("*.yaml"):
        for version in re.findall(r"ARGO_VERSION: (\S+)", workflow.read_text()):
            assert version == argo, workflow
    uv = versions.find(ROOT / "Makefile", r"^UV_VERSION := (\S+)")
    assert versions.find(ROOT / "docker" / "Dockerfile", r"uv==([\d.]+)") == uv
    mlflow = versions.find(ROOT / "docker" / "tracking.in", r"^mlflow==(\S+)")
    assert versions.find(ROOT / "requirements.lock", r"^mlflow-skinny==(\S+)") == mlflow


def test_the_site_and_the_tutorial_name_the_same_repository() -> None:
    commands = [command for block in BLOCKS for command in block.commands]
    assert f"git clone {documents.repository()}" in commands


def test_every_page_is_in_the_navigation() -> None:
    """The strict build says so, too; this one needs no MkDocs."""
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    named = set(re.findall(r"- (\S+\.md)$", navigation, re.MULTILINE))
    assert named == {p.relative_to(ROOT / "docs").as_posix() for p in documents.pages()[1:]}


@functools.cache
def _texts_of_the_code() -> list[str]:
    files = [f for room in ("src", "scripts") for f in (ROOT / room).rglob("*.py")]
    trees = [ast.parse(file.read_text()) for file in files]
    return [
        node.value
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]


def _said_of_several_parts() -> list[str]:
    text = (ROOT / "docs" / "start" / "troubleshooting.md").read_text()
    section = text.split("## Errors of several parts")[1].split("\n## ")[0]
    rows = section.partition("| --- | --- |\n")[2].splitlines()
    return [row.split(" | ")[0].removeprefix("| ") for row in rows if row]


SAID_OF_SEVERAL_PARTS = _said_of_several_parts()
LONG = 8  # characters; what is shorter, such as "off", is in some text or other


def test_there_are_messages_of_several_parts() -> None:
    """Without any, the next test would be skipped."""
    assert SAID_OF_SEVERAL_PARTS


@pytest.mark.parametrize("said", SAID_OF_SEVERAL_PARTS)
def test_what_a_message_of_several_parts_says_is_in_the_code(said: str) -> None:
    """Between what stands for a name or a number; a comma joins what is told apart, too."""
    texts = _texts_of_the_code()
    parts = [part.strip("`:,.; ()") for part in re.split(r"…|, |; |: ", said)]
    parts = [part.removeprefix("got ").removeprefix("expected ") for part in parts]
    assert [p for p in parts if len(p) >= LONG], "say enough of it to find it in the code"
    assert [p for p in parts if p and not any(p in text for text in texts)] == []
