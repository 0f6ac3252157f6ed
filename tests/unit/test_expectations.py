"""What is expected of a data set: measured once, judged anew whenever the limits are others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from typer.testing import CliRunner

from mlpipeline.backends.local import commands
from mlpipeline.backends.local.backend import LocalBackend
from mlpipeline.cli import app
from mlpipeline.errors import ExpectationError
from mlpipeline.learning.data import Dataset, Split, datasets, expectations, images, profile
from mlpipeline.learning.data.expectations import Check, Judgement
from mlpipeline.plan import config as configuration
from mlpipeline.plan import pipeline
from mlpipeline.plan.config import Config, Data, Expectations
from mlpipeline.steps.ingestion import ingest
from mlpipeline.store import artifacts, registry
from mlpipeline.store.layout import DatasetFolder, ModelFolder, Workspace
from mlpipeline.store.schemas.dataset import DatasetCard, SplitName, SplitProfile
from mlpipeline.store.schemas.feedback import Correction, Snapshot
from mlpipeline.store.schemas.run import Run
from support.stored_documents import dataset_card, model_card

CLASSES = ("dark", "bright")
NONE = {"blank": 0, "repeated": 0, "leaked": 0, "contradicted": 0}
Faults = dict[SplitName, dict[str, int]]


def noise(count: int, *, seed: int = 0, shape: tuple[int, ...] = (4, 5)) -> NDArray[np.uint8]:
    """Images that are all different."""
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), np.uint8)


def profiled(
    train: Sequence[tuple[NDArray[np.uint8], int]],
    validation: Sequence[tuple[NDArray[np.uint8], int]],
    test: Sequence[tuple[NDArray[np.uint8], int]],
) -> dict[SplitName, SplitProfile]:
    """What is measured of three splits, of which the first two are one to begin with."""

    def split(pairs: Sequence[tuple[NDArray[np.uint8], int]]) -> Split:
        return Split(np.stack([i for i, _ in pairs]), np.array([n for _, n in pairs], np.int64))

    dataset = Dataset("own", CLASSES, split([*train, *validation]), split(test), "drawn")
    groups, looks = profile.read(dataset)
    ends = np.cumsum([len(train), len(validation), len(test)])
    rows: dict[SplitName, NDArray[np.int64]] = dict(
        zip(("train", "validation", "test"), np.split(np.arange(ends[2]), ends[:2]), strict=True)
    )
    labels = np.concatenate([dataset.train.labels, dataset.test.labels])
    return profile.measure(groups, looks, labels, rows)


def faults(profiles: dict[SplitName, SplitProfile]) -> Faults:
    return {
        name: {field: getattr(each, field) for field in NONE} for name, each in profiles.items()
    }


def labelled(given: NDArray[np.uint8]) -> list[tuple[NDArray[np.uint8], int]]:
    return [(image, number % 2) for number, image in enumerate(given)]


# --- measuring --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(4, 5), (4, 5, 1), (4, 5, 3)], ids=["grey", "one", "colour"])
def test_of_images_that_are_all_different_nothing_is_counted(shape: tuple[int, ...]) -> None:
    train, validation, test = (labelled(noise(9, seed=seed, shape=shape)) for seed in range(3))
    found = profiled(train, validation, test)
    assert faults(found) == {"train": NONE, "validation": NONE, "test": NONE}
    for each in found.values():
        assert sum(each.means) == sum(each.contrasts) == 9


def test_equal_images_are_counted_where_they_are() -> None:
    a, b, c, d, e, f, g = noise(7)
    found = profiled(
        train=[(a, 0), (a, 0), (a, 0), (b, 0), (b, 1), (c, 1)],
        validation=[(a, 0), (d, 1)],
        test=[(c, 1), (c, 0), (d, 1), (e, 0), (f, 1), (f, 1), (g, 0)],
    )
    assert faults(found) == {
        # Of `c` one is called otherwise, in test.
        "train": NONE | {"repeated": 3, "contradicted": 3},
        "validation": NONE | {"leaked": 1},
        # What is twice in test and nowhere else gives nothing away.
        "test": NONE | {"repeated": 2, "leaked": 3, "contradicted": 2},
    }


def test_an_image_that_is_in_train_and_in_test_is_one_of_test() -> None:
    train, test = labelled(noise(4)), labelled(noise(3, seed=1))
    found = profiled(train, [], [*test, train[2]])
    assert faults(found) == {"train": NONE, "validation": NONE, "test": NONE | {"leaked": 1}}
    assert sum(found["validation"].means) == 0


def test_images_that_are_all_blank_are_copies_of_each_other_too() -> None:
    black, white = np.zeros((4, 5), np.uint8), np.full((4, 5), 255, np.uint8)
    found = profiled([(black, 0), (black, 1)], [(black, 0)], [(white, 0), (white, 0)])
    assert faults(found) == {
        "train": {"blank": 2, "repeated": 1, "leaked": 0, "contradicted": 2},
        "validation": {"blank": 1, "repeated": 0, "leaked": 1, "contradicted": 1},
        "test": {"blank": 2, "repeated": 1, "leaked": 0, "contradicted": 0},
    }
    assert found["train"].means == (2, *[0] * 49)
    assert found["test"].means == (*[0] * 49, 2)
    assert found["test"].contrasts == (2, *[0] * 49)


def test_a_colour_image_of_one_colour_is_blank_whatever_its_channels_are() -> None:
    red, noisy = np.zeros((4, 5, 3), np.uint8), noise(1, shape=(4, 5, 3))[0]
    red[..., 0] = 200
    found = profiled([(red, 0)], [], [(noisy, 0)])
    assert (found["train"].blank, found["test"].blank) == (1, 0)
    assert found["train"].contrasts[0] == 0, "red and black pixels differ, as numbers"


def test_half_black_and_half_white_is_the_largest_contrast() -> None:
    image = np.zeros((4, 4), np.uint8)
    image[:2] = 255
    (found, *_) = profiled([(image, 0)], [], [(image, 0)]).values()
    assert found.contrasts[-1] == found.means[25] == 1


def test_a_memory_mapped_file_is_measured_in_slices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = datasets.synthetic()
    np.save(tmp_path / "images.npy", given.train.images)
    mapped = np.load(tmp_path / "images.npy", mmap_mode="r")
    whole = profile.read(given)
    monkeypatch.setattr(images, "SLICE_BYTES", 99 * 28 * 28)
    groups, looks = profile.read(replace(given, train=Split(mapped, given.train.labels)))
    for one, other in zip(whole[1], looks, strict=True):
        assert (one == other).all()
    assert (whole[0].order == groups.order).all()
    assert (whole[0].starts == groups.starts).all()


# --- judging ----------------------------------------------------------------------------------


def card_of(
    train: tuple[int, ...] = (500, 500),
    *,
    validation: tuple[int, ...] = (50, 50),
    test: tuple[int, ...] = (100, 100),
    means: int = 10,
    changes: Faults | None = None,
    **others: Any,
) -> DatasetCard:
    """A card with so many images of each class, all of one mean."""
    per_class: dict[SplitName, tuple[int, ...]] = {
        "train": train,
        "validation": validation,
        "test": test,
    }

    def histogram(place: int, count: int) -> tuple[int, ...]:
        return tuple(np.bincount([place], minlength=profile.BINS) * count)

    profiles = {
        name: SplitProfile(
            **NONE | (changes or {}).get(name, {}),
            means=histogram(means, sum(counts)),
            contrasts=histogram(20, sum(counts)),
        )
        for name, counts in per_class.items()
    }
    content: dict[str, Any] = {
        "counts": {name: sum(counts) for name, counts in per_class.items()},
        "per_class": per_class,
        "profile": profiles,
    }
    return dataset_card(**content | others)


def check_of(judgement: Judgement, name: str) -> Check:
    return next(check for check in judgement.checks if check.name == name)


def unmet(judgement: Judgement) -> list[str]:
    return [check.name for check in judgement.unmet]


def test_what_is_as_expected_has_nothing_to_say() -> None:
    judgement = expectations.judge(Expectations(), card_of(), card_of())
    assert [check.name for check in judgement.checks] == [
        *("balance", "blank", "duplicates", "leakage", "contradictions"),
        *("class_drift", "pixel_drift"),
    ]
    assert judgement.summary == ""
    judgement.require()


def test_a_class_that_is_missing_in_one_split_is_no_balance() -> None:
    judgement = expectations.judge(Expectations(), card_of(test=(0, 200)))
    assert unmet(judgement) == ["balance"]
    found = check_of(judgement, "balance")
    assert found.value == 0
    assert found.said == "images of test that are of class dark: 0 of 200"


@pytest.mark.parametrize(("train", "value", "met"), [((51, 949), 0.102, 1), ((49, 951), 0.098, 0)])
def test_balance_is_the_least_that_any_class_has(
    train: tuple[int, int], value: float, met: bool
) -> None:
    found = check_of(expectations.judge(Expectations(), card_of(train)), "balance")
    assert found.value == pytest.approx(value)
    assert found.is_met == met


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("blank", "blank"),
        ("duplicates", "repeated"),
        ("leakage", "leaked"),
        ("contradictions", "contradicted"),
    ],
)
def test_the_worst_split_counts_up_to_the_limit(name: str, field: str) -> None:
    changes: Faults = {"train": {field: 9}, "test": {field: 2}}
    judgement = expectations.judge(Expectations(), card_of(changes=changes))
    assert judgement.unmet == []
    changes["test"][field] = 3
    judgement = expectations.judge(Expectations(), card_of(changes=changes))
    assert unmet(judgement) == [name]
    assert check_of(judgement, name).said.endswith(": 3 of 200")
    assert check_of(judgement, name).said.startswith("images of test that ")
    strict = expectations.judge(Expectations.model_validate({name: 0}), card_of(changes={}))
    assert strict.unmet == []


def test_a_split_without_images_has_nothing_to_say() -> None:
    card = card_of(validation=(0, 0), test=(1, 0))
    judgement = expectations.judge(Expectations(), card)
    assert check_of(judgement, "balance").said == "images of test that are of class bright: 0 of 1"


def test_a_data_set_of_one_image_is_compared_without_alarm() -> None:
    """Of one image chance makes anything."""
    card = card_of((1, 0), validation=(0, 0), test=(0, 1), means=49)
    judgement = expectations.judge(Expectations(balance=None), card, card_of())
    assert check_of(judgement, "pixel_drift").value == 1
    assert judgement.unmet == []


def test_what_nobody_asks_for_is_not_looked_at() -> None:
    limits = Expectations.model_fields.keys() - {"fail"}
    asked = Expectations.model_validate(dict.fromkeys(limits))
    assert expectations.judge(asked, card_of(test=(0, 200)), card_of()).checks == ()


@pytest.mark.parametrize(("train", "met"), [((600, 400), True), ((700, 300), False)])
def test_other_shares_of_the_classes_are_drift(train: tuple[int, int], met: bool) -> None:
    judgement = expectations.judge(Expectations(), card_of(train), card_of())
    assert check_of(judgement, "class_drift").is_met is met
    assert check_of(judgement, "pixel_drift").value == 0


def test_of_few_images_other_shares_are_chance() -> None:
    few: dict[str, Any] = {"validation": (1, 1), "test": (1, 1)}
    judgement = expectations.judge(Expectations(), card_of((14, 6), **few), card_of((10, 10)))
    assert check_of(judgement, "class_drift").value > 0.1
    assert judgement.unmet == []


def test_a_class_that_is_new_is_drift_and_the_order_of_classes_is_none() -> None:
    last = card_of()
    turned = card_of((500, 500), classes=("bright", "dark"))
    assert expectations.judge(Expectations(), turned, last).unmet == []
    three: dict[str, Any] = {
        "validation": (9, 9, 9),
        "test": (9, 9, 9),
        "classes": (*CLASSES, "new"),
    }
    grown = card_of((500, 500, 500), **three)
    assert unmet(expectations.judge(Expectations(), grown, last)) == ["class_drift"]


def test_brighter_images_are_drift() -> None:
    judgement = expectations.judge(Expectations(), card_of(means=14), card_of())
    assert unmet(judgement) == ["pixel_drift"]
    said = "means of train's images: Kolmogorov-Smirnov distance 1.000"
    assert judgement.summary == f"pixel_drift: {said}"


def test_a_card_of_an_older_version_is_compared_by_what_it_says() -> None:
    old = card_of(profile=None)
    judgement = expectations.judge(Expectations(), card_of((800, 200)), old)
    assert unmet(judgement) == ["class_drift"]
    assert [check.name for check in expectations.judge(Expectations(), old).checks] == ["balance"]


def test_a_run_fails_by_what_it_is_asked_to_and_says_all_of_it() -> None:
    changes: Faults = {"test": {"leaked": 150, "blank": 100}, "train": {"repeated": 400}}
    card = card_of(test=(0, 200), changes=changes)
    expectations.judge(Expectations(fail=("contradictions",)), card).require()
    judgement = expectations.judge(Expectations(fail=("leakage", "balance")), card)
    assert unmet(judgement) == ["balance", "blank", "duplicates", "leakage"]
    with pytest.raises(ExpectationError) as raised:
        judgement.require()
    assert raised.value.got == (
        "the data is not as expected: balance: images of test that are of class dark: 0 of 200; "
        "leakage: images of test that are also in a split before it: 150 of 200"
    )
    assert raised.value.expected == (
        "balance at least 0.1, leakage at most 0.01, as `expectations.fail` asks"
    )


# --- what it is compared with -------------------------------------------------------------------


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path / "workspace")


def save(workspace: Workspace, key: str, card: DatasetCard) -> None:
    with artifacts.publish(workspace.dataset(key).path) as draft:
        card.save(DatasetFolder(draft).card)


def settings_of(**asked: Any) -> Config:
    raw = {
        "name": "shirts",
        "data": {"dataset": "synthetic", "validation": 205, "shards": 4},
        "candidates": {"cnn": {"model": "cnn"}},
        "expectations": asked,
    }
    return configuration.parse(raw, origin="test")


def serve(workspace: Workspace, version: str, dataset: str) -> None:
    with artifacts.publish(workspace.model("shirts", version).path) as draft:
        model_card(version=version, dataset_key=dataset).save(ModelFolder(draft).card)
    registry.promote(workspace, "shirts", version)


def test_a_run_names_the_data_of_the_version_that_is_current_when_it_begins(
    workspace: Workspace,
) -> None:
    settings = settings_of(leakage=0.5)
    assert expectations.against_current(settings, workspace) == settings
    serve(workspace, "one", "ingest-1")
    named = expectations.against_current(settings, workspace)
    assert named.expectations == Expectations(leakage=0.5, against="ingest-1")
    serve(workspace, "two", "ingest-2")
    assert expectations.against_current(named, workspace) == named
    assert expectations.against_current(settings, workspace).expectations.against == "ingest-2"


def test_a_run_on_this_machine_writes_it_for_its_steps(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run(*_: Any, **__: Any) -> None:
        serve(workspace, "two", "ingest-2")  # another run publishes meanwhile

    serve(workspace, "one", "ingest-1")
    monkeypatch.setattr(LocalBackend, "run", run)
    monkeypatch.setattr(commands, "_conclude", lambda record, *_: record.save())
    commands.run(settings_of(), Path("default.yaml"), workspace)
    (folder,) = workspace.runs()
    assert configuration.load(folder.config).expectations.against == "ingest-1"
    assert Run.load(folder.record).settings("expectations")["against"] == "ingest-1"


def test_where_the_current_version_cannot_be_read_nothing_is_named(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    serve(workspace, "one", "ingest-1")
    workspace.model("shirts", "one").card.write_text("{")
    settings = settings_of()
    assert expectations.against_current(settings, workspace) == settings
    assert "drift of the data is not known" in caplog.text


def test_a_data_set_that_is_gone_is_said_and_fails_nothing(
    workspace: Workspace, caplog: pytest.LogCaptureFixture
) -> None:
    save(workspace, "ingest-2", card_of())
    asked = Expectations(fail=("class_drift",), against="ingest-1")
    judgement = expectations.of(workspace, asked, "ingest-2")
    judgement.require()
    judgement.tell()
    assert "ingest-1/dataset.json" in judgement.not_compared
    assert judgement.not_compared in caplog.text
    assert judgement.against == ""


def test_it_is_compared_with_what_is_named_whatever_that_is_called(workspace: Workspace) -> None:
    save(workspace, "ingest-1", card_of((900, 100), name="week 1"))
    save(workspace, "ingest-2", card_of(name="week 2"))
    judgement = expectations.of(workspace, Expectations(against="ingest-1"), "ingest-2")
    assert unmet(judgement) == ["class_drift"]
    assert judgement.against == "ingest-1"


def test_data_that_has_not_changed_is_compared_with_nothing(workspace: Workspace) -> None:
    save(workspace, "ingest-1", card_of())
    judgement = expectations.of(workspace, Expectations(against="ingest-1"), "ingest-1")
    assert (judgement.against, judgement.not_compared) == ("", "")


# --- the step -----------------------------------------------------------------------------------


def test_no_limit_is_part_of_any_key() -> None:
    def keys(settings: Config) -> list[str]:
        return [task.key for task in pipeline.plan(settings).values()]

    asked = {"blank": 0, "balance": None, "fail": ["leakage"], "against": "ingest-1"}
    assert keys(settings_of(**asked)) == keys(settings_of())


@pytest.fixture
def step(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The step `ingest`, of images of which one is in train and in test."""
    given = datasets.synthetic()
    given.test.images[0] = given.train.images[0]
    monkeypatch.setitem(datasets.BUILTIN, "synthetic", lambda: given)

    def run(**asked: Any) -> Any:
        config = tmp_path / "config.yaml"
        configuration.write(settings_of(**asked), config)
        arguments = ["step", "ingest", "--config", str(config), "--workspace", str(workspace)]
        return CliRunner().invoke(app.app, arguments)

    return run


def test_the_same_data_is_judged_anew_whenever_a_limit_is_another(
    step: Any, workspace: Workspace
) -> None:
    first = step()
    assert first.exit_code == 0, first.output
    (folder,) = workspace.dataset("").path.glob("ingest-*")
    card = DatasetCard.load(DatasetFolder(folder).card)
    assert card.profile is not None
    assert card.profile["test"].leaked == 1
    assert "| also in a split before it | 0 | 0 | 1 |" in DatasetFolder(folder).readme.read_text()
    assert "leakage" not in first.output, "one of 1,000 is a tenth of the limit"
    made = folder.stat().st_ino

    warned = step(leakage=0)
    assert (warned.exit_code, "is there already" in warned.output) == (0, True)
    said = "leakage: images of test that are also in a split before it: 1 of 1,000"
    assert said in warned.output

    failed = step(leakage=0, fail=["leakage"])
    assert isinstance(failed.exception, ExpectationError)
    assert "is there already" in failed.output

    assert step(leakage=0.001, fail=["leakage"]).exit_code == 0
    assert folder.stat().st_ino == made, "nothing was read again"


def test_data_that_a_run_fails_by_is_published_with_its_figures(
    step: Any, workspace: Workspace
) -> None:
    failed = step(leakage=0, fail=["leakage"])
    assert isinstance(failed.exception, ExpectationError)
    (folder,) = workspace.dataset("").path.glob("ingest-*")
    artifacts.verify(folder)
    assert "is there already" in step().output


def test_labels_that_were_corrected_contradict_nothing_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = datasets.synthetic()
    twice = given.train.images[1]
    given.train.images[0] = twice
    monkeypatch.setitem(datasets.BUILTIN, "synthetic", lambda: given)
    right = given.classes[given.train.labels[1]]
    image = hashlib.sha256(twice.tobytes()).hexdigest()
    snapshot = Snapshot(corrections=(Correction("2026-01-01", "one", image, right),))
    feedback = Workspace(tmp_path).feedback
    plain = Data(dataset="synthetic", validation=205, shards=3)
    corrected = plain.model_copy(update={"feedback": snapshot.keep(feedback)})

    def contradicted(data: Data, folder: Path) -> int:
        ingest(data, folder, feedback=feedback)
        card = DatasetCard.load(DatasetFolder(folder).card)
        assert card.profile is not None
        named = card.duplicates.in_two_classes if card.duplicates else 0
        assert (named > 0) == any(each.contradicted for each in card.profile.values())
        return sum(each.contradicted for each in card.profile.values())

    assert contradicted(plain, tmp_path / "plain") == 2
    assert contradicted(corrected, tmp_path / "corrected") == 0


# --- the configuration ---------------------------------------------------------------------------


def test_what_a_run_fails_by_needs_a_limit() -> None:
    with pytest.raises(Exception, match=r"expectations\.fail names blank: expected a limit"):
        settings_of(blank=None, fail=["blank"])


def test_the_configuration_of_a_run_is_read_as_it_was_written(tmp_path: Path) -> None:
    asked = settings_of(blank=None, fail=["leakage"], against="ingest-1")
    configuration.write(asked, tmp_path / "config.yaml")
    assert configuration.load(tmp_path / "config.yaml") == asked
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["expectations"]["blank"] is None


@pytest.mark.parametrize("key", ["../other", "a/b", "", "ingest.1"])
def test_no_path_is_a_key(key: str) -> None:
    with pytest.raises(Exception, match=r"expectations\.against"):
        settings_of(against=key)
