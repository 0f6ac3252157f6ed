"""The commands of README and docs/ that need a cluster, run as they are written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support import documents
from support.reader import Reader, checkout, reader

pytestmark = pytest.mark.timeout(1800)

PAGES = sorted({block.page for block in documents.all_blocks() if block.ring == "cluster"})


@pytest.fixture(scope="module")
def someone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A reader with a copy of the repository; defaults are the quick configuration."""
    folder = checkout(tmp_path_factory.mktemp("docs") / "mlpipeline")
    with reader(folder, {"CONFIG": "configs/quick.yaml"}) as one:
        yield one


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_works(someone: Reader, page: str) -> None:
    try:
        for block in documents.blocks(documents.ROOT / page):
            if block.ring == "cluster":
                print(someone.do(block))
    finally:
        someone.stop()
