"""The commands of README and docs/ that need one machine, run as they are written.

They run in a copy of the repository, as a reader does. What a page leaves to the defaults is
the quick configuration here: `make run` then trains for seconds, not for minutes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from support import documents
from support.reader import Reader, checkout, reader

pytestmark = pytest.mark.timeout(1800)

# The pages that make something come first; the others look at it.
FIRST = ["README.md", "docs/start/local.md"]
PAGES = sorted(
    {block.page for block in documents.all_blocks() if block.ring == "local"},
    key=lambda page: (FIRST.index(page) if page in FIRST else len(FIRST), page),
)


@pytest.fixture(scope="module")
def someone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader with a copy of the repository and an image of their own."""
    folder = checkout(tmp_path_factory.mktemp("docs") / "mlpipeline")
    brightness = np.random.default_rng(0).integers(0, 100, (28, 28), np.uint8)
    Image.fromarray(brightness).save(folder / "coat.png")
    quick = {"CONFIG": "configs/quick.yaml", "PORT": "8080"}
    with reader(folder, quick) as one:
        yield one


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(someone: Reader, page: str) -> None:
    try:
        for block in documents.blocks(documents.ROOT / page):
            if block.ring == "local":
                print(someone.do(block))
    finally:
        someone.stop()


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A newcomer without anything: the tutorial's first command clones the repository."""
    with reader(tmp_path_factory.mktemp("tutorial")) as one:
        yield one


def test_the_tutorial_works_as_it_is_written(tutorial: Reader) -> None:
    """Its part on this machine; tests/e2e/test_tutorial.py goes on in a cluster."""
    answer = ""
    for block in documents.blocks(documents.ROOT / "docs/start/tutorial.md"):
        if block.ring == "tutorial":
            answer = tutorial.do(block)
    known = history.read(Workspace(tutorial.folder / "workspace"), "shapes")
    assert [held.by for held in known.held_back] == ["gate", "canary"]
    assert [change.how for change in known.changes[-2:]] == ["published", "rolled back"]
    (probabilities,) = json.loads(answer)["predictions"]
    assert len(probabilities) == 3
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)
