"""Searches: which candidates they become, what is stable when a space grows, mistakes."""

from __future__ import annotations

from typing import Any

import pytest

from mlpipeline.backends.cluster import planning
from mlpipeline.errors import ConfigurationError
from mlpipeline.plan import config, pipeline, search
from mlpipeline.plan.config import Candidate, Config

GRID = {
    "model": "cnn",
    "method": "grid",
    "space": {"learning_rate": [0.05, 0.1], "options.units": [32, 64]},
}
RANDOM = {
    "model": "cnn",
    "method": "random",
    "trials": 8,
    "space": {
        "learning_rate": {"low": 1e-3, "high": 1.0, "log": True},
        "ema": {"low": 0.5, "high": 0.9},
        "epochs": {"low": 1, "high": 3},
        "optimizer": ["adam", "sgd"],
    },
}


def _config(searches: dict[str, Any], **sections: Any) -> Config:
    return config.parse({"name": "shirts", "search": searches} | sections, origin="")


def _keys(settings: Config) -> set[str]:
    return {task.key for task in pipeline.plan(settings).values() if task.candidate}


def _problems(searches: Any, **sections: Any) -> list[str]:
    with pytest.raises(ConfigurationError) as raised:
        _config(searches, **sections)
    return [line[4:] for line in raised.value.got.splitlines() if line.startswith("  - ")]


# --- what it becomes --------------------------------------------------------------------------


def test_a_grid_is_every_combination_as_ordinary_candidates() -> None:
    found = _config({"cnn": GRID}, recipe={"epochs": 3}).candidates.values()
    assert list(found) == [
        Candidate(model="cnn", epochs=3, learning_rate=rate, options={"units": units})
        for rate in (0.05, 0.1)
        for units in (32, 64)
    ]


def test_trials_stand_beside_candidates_and_the_search_is_gone() -> None:
    settings = _config({"cnn": GRID}, candidates={"plain": {"model": "cnn"}})
    assert next(iter(settings.candidates)) == "plain"
    assert len(settings.candidates) == 5
    assert settings.search == {}


def test_draws_are_the_same_each_time_and_others_with_another_seed() -> None:
    drawn = _config({"cnn": RANDOM}).candidates
    assert _config({"cnn": RANDOM}).candidates == drawn
    assert len(drawn) == 8
    assert not drawn.keys() & _config({"cnn": RANDOM | {"seed": 1}}).candidates.keys()


def test_draws_are_spread_over_the_whole_space_and_never_outside_of_it() -> None:
    found = list(_config({"cnn": RANDOM | {"trials": 300}}).candidates.values())
    assert {c.epochs for c in found} == {1, 2, 3}
    assert {c.optimizer for c in found} == {"adam", "sgd"}
    assert all(0.5 <= c.ema <= 0.9 for c in found)
    assert all(1e-3 <= c.learning_rate <= 1 for c in found)
    decades = [sum(low <= c.learning_rate < 10 * low for c in found) for low in (1e-3, 1e-2, 1e-1)]
    assert min(decades) > 70, "the logarithm is uniform: a third of 300 each"


def test_a_draw_that_was_there_already_is_one_candidate() -> None:
    few = RANDOM | {"trials": 50, "space": {"epochs": {"low": 1, "high": 3}}}
    assert sorted(c.epochs for c in _config({"cnn": few}).candidates.values()) == [1, 2, 3]


# --- what is stable ---------------------------------------------------------------------------


@pytest.mark.parametrize("rates", [[0.05, 0.1, 0.2], [0.2, 0.1, 0.05], [0.01, 0.05, 0.1]])
def test_a_trial_keeps_its_key_when_its_grid_grows(rates: list[float]) -> None:
    before = _config({"cnn": GRID})
    space = GRID["space"] | {"learning_rate": rates}  # type: ignore[operator]
    after = _config({"cnn": GRID | {"space": space}})
    assert len(after.candidates) == 6
    assert _keys(before) < _keys(after)
    assert {n: after.candidates[n] for n in before.candidates} == before.candidates


def test_more_draws_leave_those_before_as_they_are() -> None:
    before, after = _config({"cnn": RANDOM}), _config({"cnn": RANDOM | {"trials": 12}})
    assert list(after.candidates.items())[:8] == list(before.candidates.items())
    assert _keys(before) < _keys(after)


def test_a_configuration_without_a_search_is_as_it_was_written() -> None:
    raw = {"name": "shirts", "candidates": {"cnn": {"model": "cnn"}}}
    assert search.expand(raw) == (raw, {})


def test_a_cluster_may_be_told_to_train_some_of_the_trials() -> None:
    text = str({"name": "shirts", "search": {"cnn": GRID}})
    first, *_, last = _config({"cnn": GRID}).candidates
    resolved = planning.resolve(text, planning.Overrides(candidates=f"{last},{first}"))
    assert list(config.parse(resolved, origin="").candidates) == [last, first]


# --- mistakes ---------------------------------------------------------------------------------


def test_what_is_wrong_with_a_space_is_said_once_with_the_nearest_name() -> None:
    space = {"learning_rat": [1, 2], "epochs": [0, 3], "options": [{}], "flip": [True, False]}
    assert sorted(_problems({"cnn": GRID | {"space": space}})) == [
        "search.cnn.space.epochs: got 0, expected greater than 0",
        "search.cnn.space.learning_rat: unknown key; did you mean `learning_rate`?",
    ]


def test_every_problem_is_said_at_once_with_those_of_other_sections() -> None:
    searches = {
        "grid": GRID | {"methd": "grid", "trials": 3},
        "draws": RANDOM | {"space": {"ema": {"lo": 0, "high": 1}}},
        "Loud": GRID,
    }
    problems = _problems(searches, trainig={})
    for problem in (
        "search.grid.methd: unknown key; did you mean `method`?",
        "search.draws.space.ema.lo: unknown key; did you mean `low`?",
        "trainig: unknown key; did you mean `training`?",
    ):
        assert problem in problems
    assert any(problem.startswith("search.Loud.[key]: got 'Loud-") for problem in problems)


@pytest.mark.parametrize(
    ("searches", "problem"),
    [
        ({"a": GRID | {"method": "gird"}}, "search.a.method: got 'gird', expected 'grid' or"),
        ({"a": GRID | {"trials": 3}}, "search.a: trials is 3: expected none with method `grid`"),
        ({"a": RANDOM | {"trials": None}}, "search.a: trials is missing"),
        ({"a": RANDOM | {"trials": 0}}, "search.a.trials: got 0, expected greater than 0"),
        ({"a": RANDOM | {"method": "grid", "trials": None}}, "search.a: space has ranges"),
        ({"a": GRID | {"space": {}}}, "search.a.space: got {}"),
        ({"a": GRID | {"space": {"ema": []}}}, "search.a.space.ema: got low None and high None"),
        ({"a": GRID | {"space": {"ema": {"low": 1, "high": 1}}}}, "search.a.space.ema: got low 1"),
        (
            {"a": GRID | {"space": {"ema": {"low": 0, "high": 1, "log": True}}}},
            "search.a.space.ema: got low 0, expected more than 0",
        ),
        (
            {"a": RANDOM | {"space": {"ema": {"low": 0, "high": 10**400}}}},
            f"search.a.space.ema: got low 0 and high {10**400}, expected them within ±2^53",
        ),
        (
            {"a": GRID | {"space": {"ema": {"values": [0], "high": 1}}}},
            "search.a.space.ema: got values and a range",
        ),
        ({"a": {"method": "grid", "space": {"ema": [0]}}}, "search.a.model: missing"),
        ({"a": None}, "search.a: got None, expected"),
        ([GRID], "search: got ["),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_is_said_with_its_place(searches: Any, problem: str) -> None:
    (said,) = _problems(searches, candidates={"cnn": {"model": "cnn"}})
    assert said.startswith(problem)


def test_a_trial_that_is_called_like_a_candidate_is_a_problem() -> None:
    name = next(iter(_config({"cnn": GRID}).candidates))
    (said,) = _problems({"cnn": GRID}, candidates={name: {"model": "cnn"}})
    assert said.startswith("search.cnn: expected that its trials")


def test_a_search_that_cannot_be_expanded_is_the_one_problem_where_there_is_nothing_else() -> None:
    (said,) = _problems({"cnn": GRID | {"method": "all"}})
    assert said.startswith("search.cnn.method")


@pytest.mark.parametrize(
    "content",
    [
        RANDOM | {"trials": 10**9},
        GRID | {"space": {"options.a": [*range(100)], "options.b": [*range(100)]}},
    ],
)
def test_more_trials_than_anybody_trains_are_an_error_at_once(content: dict[str, Any]) -> None:
    (problem,) = _problems({"cnn": content})
    assert "expected at most 1000" in problem
