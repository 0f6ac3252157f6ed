"""The data set's card: what a published data set holds, for programs (`dataset.json`) and people.

Reading it needs no TensorFlow.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mlpipeline.errors import DamagedArtifactError
from mlpipeline.store import artifacts

CARD = "dataset.json"
SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Shard:
    """One TFRecord file of a split."""

    index: int
    name: str
    count: int
    sha256: str


@dataclass(frozen=True)
class Feedback:
    """Corrected labels that were joined with a data set.

    Attributes:
        snapshot: Which ones: `feedback/snapshots/SNAPSHOT.json`.
        corrections: Images of train and validation that have another label than in the source.
        overruled: Corrections that a later one of the same image has replaced.
        ignored: Why others could not be applied.
    """

    snapshot: str
    corrections: int
    overruled: int
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class DatasetCard:
    """A published data set.

    Attributes:
        source: Where the images came from on the machine that ingested them.
        digest: SHA-256 of all images and labels; the same for every source, seed and split.
        shape: Of one image: `[height, width]` or `[height, width, channels]`.
        counts: Images of each split.
        per_class: The same for each class, in the order of `classes`.
        shards: The files of each split.
        feedback: The corrected labels that are in it, if any.
    """

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
    feedback: Feedback | None = None

    @classmethod
    def load(cls, folder: Path) -> DatasetCard:
        """Read the card of the data set published in `folder`.

        Raises:
            MissingArtifactError: There is none.
            DamagedArtifactError: It is not a data set's card.
        """
        content = artifacts.read_json(folder / CARD)
        try:
            sequences = {name: tuple(content[name]) for name in ("classes", "shape")}
            per_class = {name: tuple(content["per_class"][name]) for name in SPLITS}
            shards = {
                name: tuple(Shard(**shard) for shard in content["shards"][name]) for name in SPLITS
            }
            parts: dict[str, Any] = {"per_class": per_class, "shards": shards}
            if feedback := content.get("feedback"):
                parts["feedback"] = Feedback(**feedback | {"ignored": tuple(feedback["ignored"])})
            return cls(**content | sequences | parts)
        except (KeyError, TypeError) as error:
            raise DamagedArtifactError(
                f"{folder / CARD} is not a data set's card: {error!r}",
                expected="the card that ingestion writes",
                remedy="run the step again; `make run` makes damaged artifacts anew",
            ) from error

    def save(self, folder: Path) -> None:
        """Write the card into `folder`: `dataset.json`, and `README.md` for people."""
        artifacts.write_json(folder / CARD, asdict(self))
        artifacts.write_text(folder / "README.md", _describe(self))


def _describe(card: DatasetCard) -> str:
    warning = "\n**Made-up data: figures say nothing of real images.**\n" if card.synthetic else ""
    columns = [card.per_class[name] for name in SPLITS]
    rows = "\n".join(
        f"| {label} | {' | '.join(f'{count:,}' for count in counts)} |"
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
{_describe_feedback(card.feedback)}
- Files: TFRecord, one `tf.train.Example` for each image: `image` (raw bytes), `label` (int64).
  `dataset.json` lists them with their counts and SHA-256.
- SHA-256 of the content, in whatever order it is stored: `{card.digest}`
"""


def _describe_feedback(feedback: Feedback | None) -> str:
    if feedback is None:
        return ""
    ignored = "".join(f"\n  - ignored: {reason}" for reason in feedback.ignored)
    return f"""
- Feedback: {feedback.corrections:,} labels of `train` and `validation` were corrected, by snapshot
  `{feedback.snapshot}`; {feedback.overruled:,} corrections were overruled by later ones.{ignored}
"""
