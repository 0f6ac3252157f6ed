"""README and docs/ as tests see them: blocks of commands and files, and what is done with each.

Before each block of commands stands a comment that a reader does not see:

    <!-- test: local -->                     run on this machine, after those before it
    <!-- test: local, until TEXT -->         a command that does not end: until it prints TEXT
    <!-- test: cluster -->                   run on kind; `until` as above
    <!-- test: tutorial -->                  a step of the tutorial, in its order
    <!-- test: tutorial cluster -->          the same, where there is a cluster
    <!-- test: none, REASON -->              cannot be run by a test, and why
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RINGS = ("local", "cluster", "tutorial", "tutorial cluster", "none")
_BLOCK = re.compile(
    r"^(?:<!-- test: (?P<marker>[^>]*?) -->\n)?```(?P<language>[a-z]+)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_COMMANDS = ("console", "bash", "sh", "shell")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: The page, relative to the repository.
        language: As the fence says.
        text: Its content.
        ring: What a test does with it; empty where nothing says so.
        remark: The text to wait for, or the reason why it is not run.
    """

    page: str
    language: str
    text: str
    ring: str
    remark: str

    @property
    def holds_commands(self) -> bool:
        return self.language in _COMMANDS

    @property
    def commands(self) -> list[str]:
        """The commands without what they print; one that spans several lines is one."""
        found: list[str] = []
        continued = False
        for line in self.text.splitlines():
            if line.startswith("$ "):
                found.append(line[2:])
            elif continued:
                found[-1] += "\n" + line
            else:
                continue
            continued = line.rstrip().endswith(("|", "\\"))
        return found

    @property
    def until(self) -> str:
        """What a command that does not end prints when it is ready; empty for one that ends."""
        return self.remark.removeprefix("until ") if self.remark.startswith("until ") else ""

    @property
    def file(self) -> tuple[str, str] | None:
        """Path and content of a file that the reader is to write; its first line names it."""
        first, _, _ = self.text.partition("\n")
        name = first.removeprefix("# ")
        is_named = first.startswith("# ") and "/" in name and " " not in name
        return (name, self.text) if is_named and not self.holds_commands else None


def repository() -> str:
    """The address from which the project is cloned."""
    (url,) = re.findall(r"^repo_url: (\S+)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    return str(url)


def pages() -> list[Path]:
    """README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
        ring, _, remark = (match["marker"] or "").partition(", ")
        yield Block(
            page.relative_to(ROOT).as_posix(), match["language"], match["text"], ring, remark
        )


def all_blocks() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in pages() for block in blocks(page)]
