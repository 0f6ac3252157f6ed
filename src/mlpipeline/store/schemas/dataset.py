"""`dataset.json`: what a published data set holds, for programs; and its `README.md` for people.

Reading it needs no TensorFlow.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar, Literal

from mlpipeline.image_files.kind import ImageKind
from mlpipeline.store import files
from mlpipeline.store.layout import DatasetFolder
from mlpipeline.store.schemas.document import Document, Part

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Shard:
    """One TFRecord file of a split.

    Attributes:
        index: Its place among the split's files, from 0.
        name: The file's name in the data set's folder.
        count: How many images it holds.
        sha256: The SHA-256 of the file.
    """

    index: int
    name: str
    count: int
    sha256: str


class AppliedFeedback(Part):
    """Corrected labels that were joined with a data set.

    Attributes:
        snapshot: The digest that names the file of the corrections.
        corrections: How many images of train and validation have another label than in the source.
        overruled: How many corrections a later one of the same image has replaced.
        ignored: Why others could not be applied.
    """

    snapshot: str
    corrections: int
    overruled: int = 0
    ignored: tuple[str, ...] = ()


class Unreadable(Part):
    """Images of the source that are not in the data set, because they could not be read.

    Attributes:
        count: How many there are.
        first: The first ten of them, each with the reason.
    """

    count: int
    first: tuple[str, ...] = ()


class Duplicates(Part):
    """Equal images that should not be: nothing was done about them.

    Attributes:
        in_two_classes: How many different images are labelled as more than one class.
        in_train_and_test: How many different images are in the source's training images and in
            its test split: the test accuracy is too good by these.
        first_in_two_classes: The first ten of those, with what they are called.
        first_in_train_and_test: The first ten of these, likewise.
    """

    in_two_classes: int
    in_train_and_test: int
    first_in_two_classes: tuple[str, ...] = ()
    first_in_train_and_test: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """What was found, in a line."""
        return (
            f"{self.in_two_classes:,} images are in more than one class, "
            f"{self.in_train_and_test:,} are in train and in test"
        )


class SplitProfile(Part):
    """What the images of a split are like, in figures that somebody may have expectations of.

    Attributes:
        blank: How many are all of one colour.
        repeated: How many equal an earlier one of the same split.
        leaked: How many are also in a split before this one, in the order train, validation, test:
            a model knows them before it is measured by them.
        contradicted: How many equal one of another class, in whatever split.
        means: How many have a mean of their pixels in each of equal parts from 0 to 1.
        contrasts: How many have a standard deviation of them in each of equal parts from 0 to 0.5.
    """

    blank: int
    repeated: int
    leaked: int
    contradicted: int
    means: tuple[int, ...]
    contrasts: tuple[int, ...]


class DatasetCard(Document):
    """A published data set.

    Attributes:
        name: What the data set is called.
        source: Where the images came from on the machine that ingested them.
        synthetic: Whether the images are made up.
        digest: SHA-256 of all images and labels; the same for every source, seed and split.
        seed: The random seed by which the validation split was cut.
        classes: The names of the classes, by label.
        shape: The shape of one image: `[height, width]` or `[height, width, channels]`.
        counts: The number of images in each split.
        per_class: The number of images of each class in each split, in the order of `classes`.
        shards: The files of each split.
        feedback: The corrected labels that are in it, if any.
        preparation: How pictures become images of it; None where files cannot, because of its
            channels, and in cards of older versions.
        unreadable: What was left out because it could not be read, if anything.
        duplicates: Equal images that should not be, if any.
        profile: What the images of each split are like; None in cards of older versions.
    """

    CALLED: ClassVar[str] = "data set's card"

    name: str
    source: str
    synthetic: bool
    digest: str
    seed: int
    classes: tuple[str, ...]
    shape: tuple[int, ...]
    counts: dict[SplitName, int]
    per_class: dict[SplitName, tuple[int, ...]]
    shards: dict[SplitName, tuple[Shard, ...]]
    feedback: AppliedFeedback | None = None
    preparation: ImageKind | None = None
    unreadable: Unreadable | None = None
    duplicates: Duplicates | None = None
    profile: dict[SplitName, SplitProfile] | None = None

    def publish(self, folder: DatasetFolder) -> None:
        """Write the card into a data set's folder, and the same for people."""
        self.save(folder.card)
        files.write_text(folder.readme, _describe(self))


def _describe(card: DatasetCard) -> str:
    warning = "\n**Made-up data: figures say nothing of real images.**\n" if card.synthetic else ""
    columns = [card.per_class[name] for name in SPLITS]
    rows = "\n".join(
        f"| {in_a_cell(label)} | {' | '.join(f'{count:,}' for count in counts)} |"
        for label, *counts in zip(card.classes, *columns, strict=True)
    )
    totals = " | ".join(f"{card.counts[name]:,}" for name in SPLITS)
    return f"""# {card.name}
{warning}
Images of shape {list(card.shape)}, uint8. Source: {card.source}.

| class | {" | ".join(SPLITS)} |
| --- | --- | --- | --- |
{rows}
| all | {totals} |

`validation` was cut from the source's training images, in proportion to the classes, with seed
{card.seed}. Choose between models by `validation`; measure the chosen one on `test`, once.
{_describe_profile(card)}{_describe_feedback(card.feedback)}\
{_describe_preparation(card.preparation)}{_describe_faults(card)}
- Files: TFRecord, one `tf.train.Example` for each image: `image` (raw bytes), `label` (int64).
  `dataset.json` lists them with their counts and SHA-256.
- SHA-256 of the content, in whatever order it is stored: `{card.digest}`
"""


def _describe_profile(card: DatasetCard) -> str:
    if card.profile is None:
        return ""
    profiles = [card.profile[name] for name in SPLITS]
    rows = {
        "all of one colour": [each.blank for each in profiles],
        "equal to an earlier one of the split": [each.repeated for each in profiles],
        "also in a split before it": [each.leaked for each in profiles],
        "equal to one of another class": [each.contradicted for each in profiles],
    }
    lines = "\n".join(
        f"| {what} | {' | '.join(f'{count:,}' for count in counts)} |"
        for what, counts in rows.items()
    )
    return f"""
| images | {" | ".join(SPLITS)} |
| --- | --- | --- | --- |
{lines}
"""


def _describe_preparation(preparation: ImageKind | None) -> str:
    if preparation is None:
        return ""
    height, width = preparation.size
    colour = "grey" if preparation.channels == 1 else "RGB"
    negative = (
        ";\n  one that is dark on a bright ground is inverted, as these images have a dark one"
        if preparation.dark_ground
        else ""
    )
    return f"""
- A file to predict becomes such an image: upright, {colour}, {width} pixels wide and {height} high,
  by `{preparation.fit}`{negative}.
"""


def in_a_cell(name: str) -> str:
    """Return a name as the text of a Markdown table's cell, whatever characters it has.

    Args:
        name: Such as that of a class.
    """
    on_one_line = " ".join(name.split())
    return re.sub(r"([\\`*_\[\]<>|~&$])", r"\\\1", on_one_line)


def _describe_feedback(feedback: AppliedFeedback | None) -> str:
    if feedback is None:
        return ""
    ignored = "".join(f"\n  - ignored: {reason}" for reason in feedback.ignored)
    return f"""
- Feedback: {feedback.corrections:,} labels of `train` and `validation` were corrected, by snapshot
  `{feedback.snapshot}`; {feedback.overruled:,} corrections were overruled by later ones.{ignored}
"""


def _describe_faults(card: DatasetCard) -> str:
    lines: list[str] = []
    if left_out := card.unreadable:
        lines.append(f"- Left out, because they could not be read: {left_out.count:,} images.")
        lines += [f"  - {name}" for name in left_out.first]
    if twice := card.duplicates:
        lines.append(f"- Equal images: {twice.summary}.")
        lines += [f"  - {equal}" for equal in twice.first_in_two_classes]
        lines += [f"  - {equal}" for equal in twice.first_in_train_and_test]
    return "".join(f"\n{line}" for line in lines)
