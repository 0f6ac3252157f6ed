"""Progress lines: what a step prints is what a backend reads."""

from __future__ import annotations

import pytest

from mlpipeline import progress


@pytest.mark.parametrize(
    ("facts", "read"),
    [
        ({}, {}),
        ({"epoch": "2/8", "loss": 0.123456}, {"epoch": "2/8", "loss": "0.1235"}),
        ({"doing": "reading the data set"}, {"doing": "reading_the_data_set"}),
        ({"equation": "a=b"}, {"equation": "a=b"}),
        ({"loss": float("nan"), "rate": 1e-9}, {"loss": "nan", "rate": "1e-09"}),
    ],
    ids=["none", "numbers", "spaces", "equals", "extremes"],
)
def test_what_is_reported_is_read(
    capsys: pytest.CaptureFixture[str], facts: dict[str, object], read: dict[str, str]
) -> None:
    progress.report(3, 10, **facts)
    (line,) = capsys.readouterr().out.splitlines()
    assert progress.parse(line) == {"done": "3", "total": "10"} | read


@pytest.mark.parametrize(
    "line",
    [
        "",
        "progress",
        "progress done=1",
        "progresses done=1 total=2",
        "done=1 total=2",
        "progress: 3",
        "progress done=half total=1",
    ],
)
def test_any_other_line_is_not_progress(line: str) -> None:
    assert progress.parse(line) is None
