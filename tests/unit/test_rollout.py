"""The rule by which a version that is tried takes the place of the current one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import config, gate, rollout
from mlpipeline.plan.config import Rollout, Trial
from mlpipeline.store import history
from mlpipeline.store.layout import Workspace
from mlpipeline.store.schemas.rollout import RolloutTable, TrialFigures, TrialTable
from support.registered import NAME, register

RAW: dict[str, Any] = {"name": "shirts", "candidates": {"cnn": {"model": "cnn"}}}


def _times(**counts: int) -> tuple[int, ...]:
    """Counts of requests by their milliseconds, such as `ms5=90`."""
    table = [0] * 200
    for name, count in counts.items():
        table[rollout.interval(float(name[2:]) / 1000)] += count
    return tuple(table)


def _figures(**changes: Any) -> TrialFigures:
    good: dict[str, Any] = {
        "id": "1",
        "replica": "replica-0",
        "requests": 1_000,
        "tried": 100,
        "images": 100,
        "agreed": 97,
        "champion_times": _times(ms5=900),
        "challenger_times": _times(ms6=100),
        "round_trips": _times(ms30=100),
    }
    return TrialFigures(**(good | changes))


def _assess(*figures: TrialFigures, **settings: Any) -> rollout.State:
    return rollout.assess(Trial(**settings), "canary", figures, seconds=60)


@pytest.mark.parametrize("milliseconds", [0.01, 0.1, 1, 17, 950, 30_000])
def test_a_quantile_is_known_to_a_tenth(milliseconds: float) -> None:
    times = [0] * 200
    times[rollout.interval(milliseconds / 1000)] = 100
    found = rollout.quantile(times)
    assert found is not None
    assert milliseconds / 1000 <= found <= max(milliseconds / 1000 * 1.11, 1.01e-4)


def test_the_longest_time_is_still_an_interval() -> None:
    assert rollout.quantile([*[0] * rollout.interval(1e6), 1]) is not None


def test_a_quantile_is_of_all_requests() -> None:
    mostly = _times(ms5=91, ms500=9)
    assert rollout.quantile(mostly) == rollout.quantile(_times(ms5=1))
    assert rollout.quantile(_times(ms5=89, ms500=11)) == rollout.quantile(_times(ms500=1))
    assert rollout.quantile([]) is None


def test_one_that_is_as_good_has_no_fault() -> None:
    state = _assess(_figures())
    assert (state.table.faults, state.untried, state.is_conclusive) == ((), "", False)
    assert {check.what for check in state.table.checks} == {
        "failed requests",
        "time of 90% of requests",
        "time with the way to it",
        "same class",
    }


@pytest.mark.parametrize(
    ("changes", "settings", "said"),
    [
        ({"failed": 2, "failure": "no answer"}, {}, "failed requests 2.00%, at most 1.00% must be"),
        ({"challenger_times": _times(ms100=100)}, {}, "time of 90% of requests 1"),
        ({"round_trips": _times(ms300=100)}, {}, "time with the way to it 3"),
        ({"agreed": 12}, {}, "same class 12.00%, at least 80.00% must be"),
        ({"agreed": 97}, {"agreement": 0.98}, "same class 97.00%, at least 98.00% must be"),
    ],
)
def test_what_is_worse_is_a_fault(
    changes: dict[str, Any], settings: dict[str, Any], said: str
) -> None:
    (fault,) = _assess(_figures(**changes), **settings).table.faults
    assert fault.startswith(said)


def test_a_failure_says_what_it_was() -> None:
    (fault,) = _assess(_figures(failed=9, failure="no answer within 1 s")).table.faults
    assert fault.endswith("the last one: no answer within 1 s")


@pytest.mark.parametrize(
    ("changes", "settings"),
    [
        ({"failed": 1}, {}),
        ({"challenger_times": _times(ms18=100)}, {}),  # a busy machine may do so much
        ({"challenger_times": _times(ms900=100)}, {"slower_by": None}),
        ({"agreed": 0}, {"agreement": None}),
        ({"failed": 40}, {"errors": 0.5}),
    ],
)
def test_what_is_allowed_or_not_asked_for_is_none(
    changes: dict[str, Any], settings: dict[str, Any]
) -> None:
    assert _assess(_figures(**changes), **settings).table.faults == ()


def test_figures_of_all_replicas_count_together() -> None:
    state = _assess(
        _figures(failed=1, tried=50), _figures(id="2", replica="replica-1", failed=0, tried=50)
    )
    assert state.table.faults == ()
    assert state.table.tried == 100
    assert state.table.replicas == ("replica-0", "replica-1")


def test_a_replica_that_has_given_up_ends_it_at_once() -> None:
    state = _assess(_figures(tried=5, failed=5, stopped="5 failures in a row"))
    assert state.is_conclusive
    assert state.table.faults[0] == "replica-0 has given up on it: 5 failures in a row"


@pytest.mark.parametrize(
    ("changes", "ends"),
    [
        ({"failed": 2}, False),  # may be an accident
        ({"failed": 5}, True),
        ({"tried": 10, "failed": 4}, False),  # too few to know
        ({"agreed": 50}, True),
        ({"images": 30, "agreed": 22}, False),  # chance may do so much
        ({"images": 3, "agreed": 0}, False),
    ],
)
def test_only_what_more_requests_would_not_change_ends_it_early(
    changes: dict[str, Any], ends: bool
) -> None:
    assert _assess(_figures(**changes)).is_conclusive is ends


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tried": 19, "challenger_times": _times(ms6=19)}, "canary: 19 of 1000 requests in 60 s"),
        # What it was sent and has not answered says nothing: it may hang.
        ({"tried": 100, "challenger_times": ()}, "canary: 0 of 1000 requests in 60 s"),
        ({"images": 1, "agreed": 1, "dropped": 99}, "canary: 1 images were compared, 99 requests"),
        ({"images": 0, "agreed": 0}, "canary: 0 images were compared"),
    ],
)
def test_it_is_not_tried_with_less_than_is_asked_for(changes: dict[str, Any], said: str) -> None:
    state = _assess(_figures(**changes))
    assert state.untried.startswith(said)
    assert state.table.faults == ()


def test_without_a_wish_for_agreement_nothing_has_to_be_compared() -> None:
    assert _assess(_figures(images=0, agreed=0), agreement=None).untried == ""


def test_what_failed_was_tried() -> None:
    state = _assess(_figures(tried=20, failed=20, challenger_times=()), agreement=None)
    assert state.untried == ""
    assert state.table.faults


TABLE = TrialTable(mode="canary", share=0.1, seconds=9, requests=1_000, tried=100, images=90)


@pytest.mark.parametrize(
    ("settings", "given", "verdict", "reason"),
    [
        ({}, {}, "passed", "canary: 100 of 1,000 requests"),
        ({}, {"fault": "it has crashed"}, "kept", "it has crashed"),
        ({"required": True}, {"fault": "it has crashed"}, "refused", "it has crashed"),
        ({}, {"untried": "3 requests"}, "kept", "not tried: 3 requests"),
        ({"untried": "serve"}, {"untried": "3 requests"}, "passed", "not tried: 3 requests"),
    ],
)
def test_the_verdict(
    settings: dict[str, Any], given: dict[str, str], verdict: str, reason: str
) -> None:
    table = rollout.verdict(Rollout(**settings), "new", "old", [TABLE], **given)
    assert (table.verdict, table.reason) == (verdict, reason)
    assert table.kept == ("" if verdict == "passed" else "kept old")


def test_a_fault_of_a_trial_keeps_it_back_whatever_untried_allows() -> None:
    bad = TABLE.model_copy(update={"faults": ("same class 10.00%",)})
    table = rollout.verdict(Rollout(untried="serve"), "new", "old", [bad], untried="few requests")
    assert (table.verdict, table.reason) == ("kept", "canary: same class 10.00%")


def test_a_table_survives_the_disk() -> None:
    table = rollout.verdict(Rollout(), "new", "old", [_assess(_figures(agreed=1)).table])
    assert RolloutTable.parse(table.content(), origin="test") == table
    error = gate.refusal(table)
    assert "version new is held back" in str(error)
    assert "rollout.required" in str(error)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"canary": {"share": 0.6}}, "rollout.canary.share: got 0.6"),
        ({"canary": {"share": 0}}, "rollout.canary.share: got 0"),
        ({"shadow": {"seconds": 7_200}}, "rollout.shadow.seconds: got 7200"),
        ({"canary": {"aggreement": 0.9}}, "did you mean `agreement`?"),
        ({"canari": {}}, "did you mean `canary`?"),
        ({"untried": "promote"}, "rollout.untried: got 'promote'"),
        ({"canary": {"slower_by": 0.5}}, "rollout.canary.slower_by: got 0.5"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        config.parse(RAW | {"rollout": given}, origin="my.yaml")
    assert said in str(refused.value)


def test_an_empty_canary_is_one_with_the_defaults() -> None:
    asked = config.parse(RAW | {"rollout": {"canary": {}}}, origin="my.yaml").rollout
    assert [(mode, trial.share) for mode, trial in asked.trials] == [("canary", 0.1)]
    assert config.parse(RAW, origin="my.yaml").rollout.trials == []


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    for version, classes in (("shirts-1", "ab"), ("shirts-2", "ab"), ("shirts-3", "ba")):
        register(tmp_path, version, classes=tuple(classes))
    found = Workspace(tmp_path)
    history.move(found, NAME, "shirts-1", "published", by="run-1")
    return found


@pytest.mark.parametrize(
    ("version", "changes", "verdict", "reason"),
    [
        ("shirts-2", {"rollout": {}}, "passed", "`rollout:` asks for nothing"),
        ("shirts-1", {}, "passed", "it is the current version"),
        ("shirts-3", {}, "kept", "it has other classes than shirts-1, so nothing can be compared"),
        ("shirts-3", {"gate": {"incomparable": "serve"}}, "passed", "not tried: it has other"),
    ],
)
def test_what_is_not_tried(
    workspace: Workspace, version: str, changes: dict[str, Any], verdict: str, reason: str
) -> None:
    settings = config.parse(RAW | {"rollout": {"canary": {}}} | changes, origin="my.yaml")
    table = rollout.without_trial(settings, workspace, version)
    assert table is not None
    assert table.verdict == verdict
    assert table.reason.startswith(reason)


def test_another_version_is_tried_if_there_is_a_current_one(workspace: Workspace) -> None:
    settings = config.parse(RAW | {"rollout": {"canary": {}}}, origin="my.yaml")
    assert rollout.without_trial(settings, workspace, "shirts-2") is None
    workspace.current_version(NAME).unlink()
    table = rollout.without_trial(settings, workspace, "shirts-2")
    assert table is not None
    assert (table.verdict, table.reason) == ("passed", "nothing was current before")


def test_a_challenger_logs_no_requests() -> None:
    raw = RAW | {"serving": {"log": {"share": 1.0}, "replicas": 3}}
    tried = rollout.of_challenger(config.parse(raw, origin="my.yaml"))
    assert (tried.serving.log.share, tried.serving.replicas) == (0.0, 3)
