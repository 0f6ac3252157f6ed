"""The configuration: what is accepted, what is not, and that every problem is said at once."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mlpipeline.errors import ConfigurationError
from mlpipeline.plan.config import Candidate, Config, Recipe, load, parse, write
from mlpipeline.plan.pipeline import plan

SHIPPED = sorted(Path(__file__).parents[2].joinpath("configs").glob("*.yaml"))
MINIMAL: dict[str, Any] = {"name": "shirts", "candidates": {"cnn": {"model": "cnn"}}}


def _problems(raw: Any) -> list[str]:
    """The problems that the message lists."""
    with pytest.raises(ConfigurationError) as raised:
        parse(raw, origin="some.yaml")
    return [line[4:] for line in raised.value.got.splitlines() if line.startswith("  - ")]


def _with_candidate(**values: Any) -> dict[str, Any]:
    return MINIMAL | {"candidates": {"cnn": {"model": "cnn", **values}}}


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.name)
def test_a_configuration_that_is_shipped_fits(file: Path) -> None:
    assert load(file).candidates


def test_the_configurations_that_the_readme_names_are_shipped() -> None:
    assert {"default.yaml", "fast.yaml", "best.yaml", "book.yaml"} <= {
        file.name for file in SHIPPED
    }


def test_what_is_left_out_has_a_default() -> None:
    config = parse(MINIMAL, origin="")
    assert config.data.dataset == "fashion_mnist"
    assert config.candidates["cnn"] == Candidate(model="cnn", **Recipe().model_dump())
    assert config.training.workers == 2
    assert config.serving.replica_names == ["replica-0", "replica-1"]


def test_a_candidate_inherits_the_common_recipe_and_may_differ() -> None:
    config = parse(
        {
            "name": "shirts",
            "recipe": {"epochs": 3, "flip": True},
            "candidates": {
                "cnn": {"model": "cnn"},
                "longer": {"model": "cnn", "epochs": 5, "options": {"units": 8}},
            },
        },
        origin="",
    )
    cnn, longer = config.candidates["cnn"], config.candidates["longer"]
    assert (cnn.epochs, cnn.flip, cnn.options) == (3, True, {})
    assert (longer.epochs, longer.flip, longer.options) == (5, True, {"units": 8})
    assert longer.batch_size == Recipe().batch_size


def test_every_problem_is_said_at_once_with_the_nearest_name() -> None:
    problems = _problems(
        {
            "nam": "shirts",
            "data": {"sauce": "auto", "shards": 0},
            "recipe": {"epoch": 3},
            "candidates": {
                "cnn": {"model": "cnn", "learningrate": 0.1},
                "dropout": {"epochs": "many"},
            },
            "training": {"workers": -1},
            "serving": {"port": 70_000},
        }
    )
    assert sorted(problems) == sorted(
        [
            "name: missing",
            "nam: unknown key; did you mean `name`?",
            "data.sauce: unknown key; did you mean `source`?",
            "data.shards: got 0, expected greater than 0",
            "recipe.epoch: unknown key; did you mean `epochs`?",
            "candidates.cnn.learningrate: unknown key; did you mean `learning_rate`?",
            "candidates.dropout.model: missing",
            "candidates.dropout.epochs: got 'many', expected a valid integer, "
            "unable to parse string as an integer",
            "training.workers: got -1, expected greater than 0",
            "serving.port: got 70000, expected less than or equal to 65535",
        ]
    )


def test_the_message_counts_the_problems_and_names_the_file() -> None:
    with pytest.raises(ConfigurationError, match=r"some\.yaml has 2 problems:") as raised:
        parse(MINIMAL | {"sed": 1, "nme": 1}, origin="some.yaml")
    assert "mend some.yaml" in raised.value.remedy
    with pytest.raises(ConfigurationError, match=r"some\.yaml has 1 problem:"):
        parse(MINIMAL | {"sed": 1}, origin="some.yaml")


def test_a_key_like_no_other_gets_the_list_of_all() -> None:
    (problem,) = _problems(MINIMAL | {"data": {"zzz": 1}})
    assert problem == (
        "data.zzz: unknown key; "
        "known here: channels, dataset, feedback, files, files_digest, fit, revision, seed, "
        "shards, size, source, unreadable, validation"
    )


def test_a_misspelt_key_of_the_recipe_is_one_problem_however_many_candidates() -> None:
    candidates = {name: {"model": "cnn"} for name in ("a", "b", "c")}
    problems = _problems({"name": "x", "recipe": {"epoch": 3}, "candidates": candidates})
    assert problems == ["recipe.epoch: unknown key; did you mean `epochs`?"]


def test_a_wrong_value_of_the_recipe_is_one_problem_however_many_candidates() -> None:
    candidates = {"a": {"model": "cnn"}, "b": {"model": "cnn", "epochs": -1}}
    problems = _problems({"name": "x", "recipe": {"epochs": 0}, "candidates": candidates})
    assert problems == [
        "recipe.epochs: got 0, expected greater than 0",
        "candidates.b.epochs: got -1, expected greater than 0",
    ]


def test_a_candidate_may_be_called_like_a_section() -> None:
    problems = _problems(MINIMAL | {"candidates": {"data": {"model": "cnn", "epoch": 1}}})
    assert problems == ["candidates.data.epoch: unknown key; did you mean `epochs`?"]


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (_with_candidate(optimizer="rmsprop"), "candidates.cnn.optimizer: got 'rmsprop', expected"),
        (_with_candidate(epochs=True), "candidates.cnn.epochs: got True, expected a number"),
        (
            _with_candidate(learning_rate=True),
            "candidates.cnn.learning_rate: got True, expected a number",
        ),
        (MINIMAL | {"seed": False}, "seed: got False, expected a number"),
        (MINIMAL | {"data": {"channels": True}}, "data.channels: got True, expected a number"),
        (MINIMAL | {"data": {"size": [28, True]}}, r"data.size: got [28, True], expected a number"),
        (MINIMAL | {"data": {"validation": True}}, "data.validation: got True, expected a number"),
        (MINIMAL | {"training": {"workers": True}}, "training.workers: got True, expected"),
        (_with_candidate(learning_rate=0), "candidates.cnn.learning_rate: got 0, expected"),
        (_with_candidate(learning_rate=float("nan")), "candidates.cnn.learning_rate: got nan"),
        (_with_candidate(weight_decay=-1), "candidates.cnn.weight_decay: got -1, expected"),
        (_with_candidate(label_smoothing=1), "candidates.cnn.label_smoothing: got 1, expected"),
        (_with_candidate(ema=1.0), "candidates.cnn.ema: got 1.0, expected less than 1"),
        (_with_candidate(epochs=1.5), "candidates.cnn.epochs: got 1.5, expected"),
        (_with_candidate(flip="perhaps"), "candidates.cnn.flip: got 'perhaps', expected"),
        (_with_candidate(learning_rate=float("inf")), "candidates.cnn.learning_rate: got inf"),
        (_with_candidate(options={"since": date.min}), "candidates.cnn.options.since: got"),
        (_with_candidate(options=[1]), "candidates.cnn.options: got [1], expected"),
        (MINIMAL | {"name": "My Shirts"}, "name: got 'My Shirts'"),
        (MINIMAL | {"name": "../elsewhere"}, "name: got '../elsewhere'"),
        (MINIMAL | {"name": "x" * 41}, "name: got"),
        (MINIMAL | {"name": "3d"}, "name: got '3d'"),  # KServe would refuse it in the end
        (MINIMAL | {"name": "-x"}, "name: got '-x'"),
        (MINIMAL | {"name": "x-"}, "name: got 'x-'"),
        (MINIMAL | {"name": "a_b"}, "name: got 'a_b'"),
        (MINIMAL | {"name": ""}, "name: got ''"),
        (MINIMAL | {"candidates": {}}, "candidates: got {}"),
        (MINIMAL | {"candidates": {"../cnn": {"model": "cnn"}}}, "candidates.../cnn.[key]"),
        (MINIMAL | {"candidates": {"cnn": None}}, "candidates.cnn: got None"),
        (MINIMAL | {"candidates": ["cnn"]}, "candidates: got ['cnn'], expected"),
        (MINIMAL | {"recipe": 3}, "recipe: got 3, expected"),
        (MINIMAL | {"data": {"source": "web"}}, "data.source: got 'web', expected 'auto', 'tfds'"),
        (MINIMAL | {"seed": -1}, "seed: got -1, expected"),
        (MINIMAL | {"seed": 2**32}, "seed: got 4294967296, expected less than 4294967296"),
        (["shirts"], "got ['shirts'], expected keys and their values"),
        (None, "got None, expected keys and their values"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_value_that_does_not_fit_is_said_with_its_place(raw: Any, problem: str) -> None:
    (said,) = _problems(raw)
    assert said.startswith(problem)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"data": {"shards": 6}},
            "candidates.cnn.batch_size is 128: expected a multiple of data.shards (6)",
        ),
        ({"training": {"workers": 9}}, "training.workers is 9: expected at most data.shards (8)"),
        (
            {"training": {"strategy": "single"}},
            "training.workers is 2: expected 1 with strategy `single`",
        ),
        (
            {"training": {"parameter_servers": 2}},
            "training.parameter_servers is 2: expected strategy `parameter_server`, got "
            "`multi_worker_mirrored`",
        ),
        (
            {"serving": {"port": 9000, "grpc_port": 9000}},
            "serving.port and serving.grpc_port are both 9000",
        ),
        (
            {"serving": {"engine": "tensorflow", "precision": "int8"}},
            "serving.precision is int8: expected float32 with serving.engine `tensorflow`",
        ),
    ],
    ids=["batch-size", "workers", "single", "parameter-servers", "ports", "engine"],
)
def test_sections_that_do_not_fit_each_other_are_a_problem(
    change: dict[str, Any], problem: str
) -> None:
    (said,) = _problems(MINIMAL | change)
    assert said.startswith(problem)


def test_parameter_servers_may_be_many_where_the_strategy_has_them() -> None:
    training = {"strategy": "parameter_server", "parameter_servers": 2, "workers": 3}
    assert parse(MINIMAL | {"training": training}, origin="").training.parameter_servers == 2
    del training["parameter_servers"]
    assert parse(MINIMAL | {"training": training}, origin="").training.parameter_servers == 1


def test_all_misfits_between_sections_are_said_at_once() -> None:
    two = {name: {"model": "cnn", "batch_size": size} for name, size in (("a", 12), ("b", 100))}
    problems = _problems(
        {"name": "x", "candidates": two, "training": {"strategy": "single", "workers": 9}}
    )
    assert [problem.partition(" is ")[0] for problem in problems] == [
        "candidates.a.batch_size",
        "candidates.b.batch_size",
        "training.workers",
        "training.workers",
    ]


def test_a_file_is_loaded_as_it_would_be_parsed(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("name: shirts # of the model\ncandidates:\n  cnn: {model: cnn, epochs: 2}\n")
    assert load(file) == parse(_with_candidate(epochs=2), origin="")


def test_a_size_that_no_memory_holds_is_a_slip_of_the_hand() -> None:
    assert parse(MINIMAL | {"data": {"size": [8192, 1]}}, origin="").data.size == (8192, 1)
    (problem,) = _problems(MINIMAL | {"data": {"size": [100_000, 224]}})
    assert problem.startswith("data.size.0: got 100000, expected less than or equal to 8192")


@pytest.mark.parametrize("number", ["1e-3", "0.001", "1.0e-3"])
def test_a_number_may_be_written_as_people_do(tmp_path: Path, number: str) -> None:
    file = tmp_path / "own.yaml"  # YAML 1.1 takes `1e-3` for text
    file.write_text(
        f"name: x\nrecipe: {{learning_rate: {number}}}\ncandidates: {{cnn: {{model: cnn}}}}\n"
    )
    assert load(file).candidates["cnn"].learning_rate == 0.001


@pytest.mark.parametrize(
    "text",
    [
        *(b"name: [shirts", b"a: b: c", b"a: {b", b"\xff\xfe\xfa", b"name: !!python/x"),
        b"[" * 10_000,
    ],
    ids=lambda text: repr(text[:12]),
)
def test_a_file_that_is_no_yaml_is_an_error_that_names_it(tmp_path: Path, text: bytes) -> None:
    file = tmp_path / "broken.yaml"
    file.write_bytes(text)
    with pytest.raises(ConfigurationError, match=r"broken\.yaml is not YAML"):
        load(file)


@pytest.mark.parametrize("again", ["cnn", '"cnn"', "'cnn'"])
def test_a_key_that_is_there_twice_is_an_error_that_names_both_lines(
    tmp_path: Path, again: str
) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "name: shirts\ncandidates:\n"
        f"  cnn: {{model: cnn}}\n  wide: {{model: cnn}}\n  {again}: {{model: mlp}}\n"
    )
    with pytest.raises(ConfigurationError, match="the key `cnn` twice") as raised:
        load(file)
    assert "line 3, column 3" in str(raised.value)
    assert "line 5, column 3" in str(raised.value)


def _loaded(tmp_path: Path, data: str, encoding: str = "utf-8") -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"name: shirts\ncandidates: {{cnn: {{model: cnn}}}}\n{data}\n", encoding=encoding
    )
    return load(file)


@pytest.mark.parametrize("seed", ["017", "0_17", "-017", "0o17", "1:30", "08", "+1:30:00"])
def test_what_reads_two_ways_is_an_error_that_names_it(tmp_path: Path, seed: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        _loaded(tmp_path, f"seed: {seed}")
    assert f"`{seed}`, which readers disagree about" in raised.value.got
    assert "line 3, column 7" in raised.value.got
    assert _loaded(tmp_path, f"data: {{revision: '{seed}'}}").data.revision == seed


@pytest.mark.parametrize(("text", "seed"), [("17", 17), ("0", 0), ("1_000", 1000), ("0x1F", 31)])
def test_a_number_that_reads_one_way_is_taken(tmp_path: Path, text: str, seed: int) -> None:
    assert _loaded(tmp_path, f"seed: {text}").seed == seed


def test_a_date_is_text(tmp_path: Path) -> None:
    assert _loaded(tmp_path, "data: {revision: 2024-01-02}").data.revision == "2024-01-02"


def test_a_number_as_people_write_it_is_one_in_an_option_too(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "name: x\ncandidates: {cnn: {model: cnn, options: {a: 1e-3, b: '1e-3', c: off}}}\n"
    )
    config = load(file)
    assert config.candidates["cnn"].options == {"a": 0.001, "b": "1e-3", "c": False}
    write(config, file)
    assert load(file) == config


def test_a_candidate_may_be_called_what_yaml_takes_for_something_else(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    names = ["on", "no", "y", "null", "3", "2024-01-02", "1e3", "017"]
    each = "".join(f"  {name}: {{model: cnn}}\n" for name in names if name != "017")
    file.write_text(f"name: x\ncandidates:\n{each}  '017': {{model: cnn}}\n")
    assert list(load(file).candidates) == names
    write(load(file), file)
    assert list(load(file).candidates) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("!!python/name:os.system", "found the tag"),
        ("!!timestamp x", "found the tag"),
        ("!mine {}", "found the tag"),
        ("&a [*a]", "an alias inside of what it stands for"),
        ("{? [a] : b}", "a key that is a list or a mapping"),
        ('"\\ud800"', "half a character"),
        ("\0", "character 0x0"),
        ("x\n---\nb: 1", "another document"),
        ("\n\tname: x", "cannot start any token"),
    ],
)
def test_what_a_configuration_has_no_use_for_is_an_error(
    tmp_path: Path, text: str, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _loaded(tmp_path, f"data: {text}")


def test_a_short_text_that_stands_for_gigabytes_is_an_error(tmp_path: Path) -> None:
    layers = "".join(f", &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12))
    with pytest.raises(ConfigurationError, match="at most 100000, aliases written out"):
        _loaded(tmp_path, f"data: [&l0 [1]{layers}]")


def test_text_in_another_encoding_is_an_error_that_says_so(tmp_path: Path) -> None:
    assert _loaded(tmp_path, "", encoding="utf-8-sig").name == "shirts"
    for encoding in ("utf-16", "latin-1"):
        with pytest.raises(ConfigurationError, match="is no UTF-8"):
            _loaded(tmp_path, "# é", encoding=encoding)


@pytest.mark.parametrize("text", ["", "# nothing", "~", "5", "[a]"])
def test_a_file_without_keys_is_an_error_that_says_so(tmp_path: Path, text: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match="expected keys and their values"):
        load(file)


@pytest.mark.parametrize("host", ["", "a b", "[::1]", "x/y", "\0"])
def test_a_host_that_can_be_none_is_an_error(host: str) -> None:
    (problem,) = _problems(MINIMAL | {"serving": {"host": host}})
    assert problem.startswith("serving.host: got ")


def test_a_mapping_that_another_is_merged_into_may_say_it_otherwise(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "name: shirts\ncandidates:\n"
        "  cnn: &cnn {model: cnn, epochs: 2, shift: 1}\n"
        "  long: &long {<<: *cnn, epochs: 9}\n"
        "  longest: {<<: *long, epochs: 20}\n"
    )
    epochs = {name: (c.epochs, c.shift) for name, c in load(file).candidates.items()}
    assert epochs == {"cnn": (2, 1), "long": (9, 1), "longest": (20, 1)}


@pytest.mark.parametrize(("name", "reason"), [("none.yaml", "No such file"), (".", "directory")])
def test_a_file_that_cannot_be_read_is_an_error_that_says_why(
    tmp_path: Path, name: str, reason: str
) -> None:
    with pytest.raises(ConfigurationError, match=f"cannot read .*{reason}"):
        load(tmp_path / name)


@pytest.mark.parametrize("images", ["all", 1, 100_000])
def test_so_many_images_are_verified_as_is_said(images: Any) -> None:
    assert parse(MINIMAL | {"verify": {"images": images}}, origin="").verify.images == images
    assert parse(MINIMAL, origin="").verify.images == "all"


@pytest.mark.parametrize("images", [0, -3, True, 1.5, "some", None, [1]])
def test_another_number_of_images_to_verify_is_one_problem(images: Any) -> None:
    assert _problems(MINIMAL | {"verify": {"images": images}}) == [
        f"verify.images: got {images!r}, expected `all` or a number of images from 1 on"
    ]


@pytest.mark.parametrize("key", ["worse_by", "class_worse_by", "minimum"])
@pytest.mark.parametrize("value", [-0.1, 1.1, True, "much"])
def test_a_share_that_the_gate_cannot_go_by_is_one_problem(key: str, value: Any) -> None:
    (problem,) = _problems(MINIMAL | {"gate": {key: value}})
    assert problem.startswith(f"gate.{key}: got {value!r}")


def test_what_is_held_back_is_no_part_of_any_key() -> None:
    strict = {"gate": {"worse_by": 0, "minimum": 1, "required": True}}
    keys = [
        {name: task.key for name, task in plan(parse(MINIMAL | more, origin="")).items()}
        for more in ({}, strict)
    ]
    assert keys[0] == keys[1]


def test_a_configuration_cannot_be_changed_by_accident() -> None:
    config = parse(MINIMAL, origin="")
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1
    assert isinstance(config, Config)


def test_some_of_the_candidates_may_count() -> None:
    config = parse(MINIMAL | {"candidates": {n: {"model": "cnn"} for n in "abc"}}, origin="")
    assert list(config.among("c, a").candidates) == ["a", "c"], "in the configuration's order"
    assert config.among("") == config
    assert config.among("b").training == config.training
    with pytest.raises(ConfigurationError, match="no candidates d, e") as raised:
        config.among("a,d,e")
    assert "a, b, c" in raised.value.expected


def test_the_longest_name_fits_all_that_kserve_and_others_make_of_it() -> None:
    """Names of Services and values of labels have 63 characters at most."""
    name = "x" * 40
    assert parse(MINIMAL | {"name": name}, origin="it").name == name
    made = ("isvc.{}-predictor", "isvc.{}-transformer", "{}-address", "predict-{}")
    assert all(len(pattern.format(name)) <= 63 for pattern in made)
    # The version is a label's or an annotation's value, too.
    assert len(f"{name}-0123456789abcdef") <= 63
