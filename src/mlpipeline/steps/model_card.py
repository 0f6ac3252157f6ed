"""The model card: `card.md` in a version's folder, what people should know before they use it.

It is part of the artifact, and so of its digest. So it says nothing that two runs of equal keys
would say differently: no run, time, duration or machine; `mlpipeline lineage` knows those. What it
says depends on this module, and on the section `card:` of the configuration: both are part of the
key of selection alone, and a change of either makes another version, without training anything.
https://arxiv.org/abs/1810.03993
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mlpipeline.plan.config import Card
from mlpipeline.store import files
from mlpipeline.store.layout import ModelFolder
from mlpipeline.store.schemas.dataset import DatasetCard, in_a_cell
from mlpipeline.store.schemas.selection import ModelCard

_LICENCES = {
    "fashion_mnist": "MIT, © 2017 Zalando SE: https://github.com/zalandoresearch/fashion-mnist",
    "synthetic": "none is needed: the images are drawn by the code of this pipeline",
}
"""Those of the data sets that the package knows, by what `data.dataset` says."""
_NOT_SAID = "Not said: `card.{}` of the configuration is empty."


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        model: The model, as programs know it.
        data: The data set that it was trained on.
        source: What `data.dataset` says: the licence of some is known.
        probabilities: What it says of the test split, float32 `[images, classes]`.
        labels: The classes of the same images, int64 `[images]`.
    """

    model: ModelCard
    data: DatasetCard
    source: str
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64]


def write(folder: ModelFolder, subject: Subject, said: Card) -> None:
    """Write the card of a version into its folder.

    Args:
        folder: The folder, not published yet.
        subject: What it is about.
        said: What the configuration says for it.
    """
    sections = {
        "Intended use": said.intended_use or _NOT_SAID.format("intended_use"),
        "Data": _data(subject, said),
        "Figures": _figures(subject),
        "Limits": "\n".join(_limits(subject, said)),
        "Lineage": _lineage(subject.model),
    }
    body = "\n\n".join(f"## {title}\n\n{text.strip()}" for title, text in sections.items())
    files.write_text(folder.page, f"{_head(subject)}\n\n{body}\n")


def _head(subject: Subject) -> str:
    model, shape = subject.model, subject.data.shape
    kind = "grey" if len(shape) == 2 else f"with {shape[2]} channels"
    warning = "\n\n**Made-up data: its figures say nothing of real images.**"
    return (
        f"# {model.name}\n\nVersion `{model.version}`: says of an image, {shape[1]} pixels wide, "
        f"{shape[0]} high and {kind}, which of {len(model.classes)} classes it is."
        f"{warning if subject.data.synthetic else ''}"
    )


def _data(subject: Subject, said: Card) -> str:
    data = subject.data
    licence = said.licence or _LICENCES.get(subject.source) or _NOT_SAID.format("licence")
    counts = ", ".join(f"{count:,} {split}" for split, count in data.counts.items())
    lines = [
        f"- Data set: {in_a_cell(data.name)}",
        f"- Licence: {licence}",
        f"- Images: {counts}",
        f"- SHA-256 of all images and labels: `{data.digest}`",
    ]
    if data.feedback:
        lines.append(f"- Labels that were corrected: {data.feedback.corrections:,}")
    if data.unreadable:
        lines.append(f"- Left out, because they could not be read: {data.unreadable.count:,}")
    return "\n".join(lines)


def _figures(subject: Subject) -> str:
    model, counts = subject.model, subject.data.counts
    rows = "\n".join(
        f"| {in_a_cell(row.name)} | {row.images:,} | {_percent(row.recall)} | "
        f"{_percent(row.precision)} |"
        for row in _by_class(subject)
    )
    return f"""| split | images | accuracy |
| --- | --- | --- |
| validation | {counts["validation"]:,} | {model.validation_accuracy:.2%} |
| test | {counts["test"]:,} | {model.test_accuracy:.2%} |

By class, on the test split. Found: the share of its images that are said to be of it. Right: the
share of what is said to be of it that is.

| class | images | found | right |
| --- | --- | --- | --- |
{rows}"""


@dataclass(frozen=True)
class _OfClass:
    """The figures of one class on the test split; None where they are of no image."""

    name: str
    images: int
    recall: float | None
    precision: float | None
    taken_for: str


def _by_class(subject: Subject) -> list[_OfClass]:
    names, labels = subject.model.classes, subject.labels
    predicted = subject.probabilities.argmax(axis=1)
    rows = []
    for label, name in enumerate(names):
        said, true = predicted == label, labels == label
        hits = int((said & true).sum())
        wrong = np.bincount(predicted[true & ~said], minlength=len(names))
        rows.append(
            _OfClass(
                name,
                images=int(true.sum()),
                recall=hits / int(true.sum()) if true.any() else None,
                precision=hits / int(said.sum()) if said.any() else None,
                taken_for=names[int(wrong.argmax())] if wrong.any() else "",
            )
        )
    return rows


def _limits(subject: Subject, said: Card) -> Iterator[str]:
    yield (
        "- It says one of its classes of whatever it is shown, also of what is none of them. Its "
        "probabilities are its own estimate."
    )
    yield (
        "- The candidate was chosen by the accuracy on the validation split, which is a little too "
        "good for that; the test split was looked at once."
    )
    known = [row for row in _by_class(subject) if row.recall is not None]
    weakest = min(known, key=lambda row: row.recall or 0.0, default=None)
    if weakest and weakest.taken_for:
        yield (
            f"- The class that it finds least is {in_a_cell(weakest.name)} "
            f"({_percent(weakest.recall)}), most often taken for {in_a_cell(weakest.taken_for)}."
        )
    if subject.data.duplicates:
        yield f"- Of its data, {subject.data.duplicates.summary}."
    if said.limits:
        yield f"\n{said.limits}"


def _lineage(model: ModelCard) -> str:
    return f"""- Candidate: {in_a_cell(model.candidate)}, `candidates/{model.candidate_key}`
- Data: `datasets/{model.dataset_key}`
- Selection, with all candidates and why it is this one: `selections/{model.version}`
- Served by: {model.engine}, {model.variant}

Which runs made it or used it, when, and by which code, is no part of the version, because a later
run that comes to the same finds it here: `mlpipeline lineage {model.version}` says it."""


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.2%}"
