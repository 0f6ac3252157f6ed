"""The tutorial's part in a cluster, as it is written: own image, own run, own model."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

import support.workflows_on_kind as kind
from support import documents
from support.reader import Reader, checkout, reader

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture
def someone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """Someone who has done the part on one machine, which the integration tests do."""
    with reader(checkout(tmp_path_factory.mktemp("tutorial") / "mlpipeline")) as one:
        for block in tutorial("tutorial"):
            if block.file or makes_project(block):
                one.do(block)
        yield one
    kind.kubectl("delete", "inferenceservice", "shapes", "--ignore-not-found")


def test_a_newcomer_gets_to_a_model_of_their_own(someone: Reader) -> None:
    answer = ""
    for block in tutorial("tutorial cluster"):
        answer = someone.do(block)
        print(answer)
    (probabilities,) = json.loads(answer)["predictions"]
    assert len(probabilities) == 3
    assert sum(probabilities) == pytest.approx(1, abs=1e-4)


def makes_project(block: documents.Block) -> bool:
    """Whether a block only makes the project and goes there: it is short."""
    return all(
        command.startswith(("source ", "mlpipeline new ", "cd ")) for command in block.commands
    )


def tutorial(ring: str) -> list[documents.Block]:
    page = documents.ROOT / "docs" / "start" / "tutorial.md"
    return [block for block in documents.blocks(page) if block.ring == ring]
