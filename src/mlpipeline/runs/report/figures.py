"""The report's figures, as SVG that takes its colours from the page, and images as data URIs.

Matplotlib draws in marker colours, which are then replaced by the page's CSS variables: one figure
is legible in light and dark. Its figures are used as objects, without pyplot's global state.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Sequence
from io import BytesIO, StringIO
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from mlpipeline.runs.report.evidence import CandidateOutcome
from mlpipeline.runs.report.measures import Calibration

# Each candidate has a colour and a mark, so that nobody has to tell them apart by colour alone.
SERIES = ("●", "■", "▲", "◆", "▼", "★")
_MARKS = ("o", "s", "^", "D", "v", "*")
_INK, _MUTED, _GRID = "#000001", "#000002", "#000003"
_COLOURS = [f"#0000{16 + i:02x}" for i in range(len(SERIES))]
_VARIABLES = {_INK: "ink", _MUTED: "muted", _GRID: "rule"} | {
    colour: f"series-{i}" for i, colour in enumerate(_COLOURS)
}
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, selectable, in the page's own font
    "font.size": 11,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "lines.markersize": 4,
}
# What an axis of accuracies may say, the most telling first.
_ACCURACIES = (0.9, 0.99, 0.999, 0.95, 0.8, 0.98, 0.5, 0.995, 0.97, 0.93, 0.85, 0.7, 0.6, 0.2, 0.0)
_BEST_DRAWN = 0.9995  # no mistake at all lies infinitely high
FEWEST_IN_BIN = 20  # fewer images say next to nothing, but would catch the eye
_HEAT = (46, 108, 190)  # the page's blue in the dark, which stands on light paper, too
_LARGEST_PICTURE = 112  # pixels; larger images are scaled down to keep the page small


def learning_curves(candidates: Sequence[CandidateOutcome]) -> dict[str, Markup]:
    """Draw accuracy and loss by epoch, over all candidates that were trained for at least one."""
    if not any(candidate.history for candidate in candidates):
        return {}
    return {
        "accuracy": _draw("accuracy", lambda axes: _accuracy_curves(axes, candidates)),
        "loss": _draw("loss", lambda axes: _loss_curves(axes, candidates)),
    }


def verified(model: str, points: Sequence[tuple[str, float]]) -> Markup:
    """Draw the accuracy on the test split of what runs have served, one after the other.

    Args:
        model: Its name, which tells the figures of a page apart.
        points: Version and accuracy, the oldest first; a version that follows another one is drawn
            with another mark.
    """

    def plot(axes: Axes) -> None:
        accuracies = [min(accuracy, _BEST_DRAWN) for _, accuracy in points]
        places = range(1, len(points) + 1)
        axes.plot(places, accuracies, color=_COLOURS[0], linewidth=1.8)
        versions = list(dict.fromkeys(version for version, _ in points))
        for place, (version, _), accuracy in zip(places, points, accuracies, strict=True):
            mark = _MARKS[versions.index(version) % len(_MARKS)]
            axes.plot([place], [accuracy], color=_COLOURS[0], marker=mark)
        _even_by_mistakes(axes, accuracies)
        axes.set_xlabel("run")
        axes.set_title("accuracy on the test split", loc="left", fontsize=11, color=_MUTED)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(axis="x", visible=False)

    return _draw(f"verified-{model}", plot)


def reliability(calibration: Calibration) -> Markup:
    """Draw how often the model was right by how sure it was."""

    def plot(axes: Axes) -> None:
        bins = [b for b in calibration.bins if b.images >= FEWEST_IN_BIN]
        confidence = [b.confidence for b in bins]
        accuracy = [b.accuracy for b in bins]
        below = [b.accuracy - b.interval[0] for b in bins]
        above = [b.interval[1] - b.accuracy for b in bins]
        axes.plot([0, 1], [0, 1], color=_MUTED, linewidth=1, linestyle=(0, (2, 3)))
        axes.errorbar(
            confidence,
            accuracy,
            yerr=[below, above],
            color=_COLOURS[0],
            marker="o",
            linewidth=1.6,
            elinewidth=1,
        )
        axes.set(xlim=(0, 1.02), ylim=(0, 1.02))
        axes.set_xlabel("probability of the predicted class")
        axes.set_title("share that was right", loc="left", fontsize=11, color=_MUTED)
        axes.xaxis.set_major_formatter(_percent)
        axes.yaxis.set_major_formatter(_percent)

    return _draw("reliability", plot)


def picture(image: NDArray[np.uint8]) -> str:
    """Return an image as the data URI of a PNG.

    Args:
        image: `[H, W]` or `[H, W, C]`; of more than three channels the first three are drawn as
            red, green and blue, of two the first as grey.
    """
    if image.ndim == 3:
        image = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
    drawn = Image.fromarray(np.ascontiguousarray(image))
    drawn.thumbnail((_LARGEST_PICTURE, _LARGEST_PICTURE))
    stream = BytesIO()
    drawn.save(stream, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


def heat_map(matrix: NDArray[np.int64]) -> str:
    """Return a confusion matrix as the data URI of a PNG, a pixel for each cell, dark where many.

    The colour is a mask's: the page lays its own behind it, light or dark.

    Args:
        matrix: Counts by true class (row) and predicted class (column).
    """
    totals = np.maximum(matrix.sum(axis=1, keepdims=True), 1)
    shares = matrix / totals
    heat = np.where(shares > 0, 0.12 + 0.88 * np.sqrt(shares), 0)  # one mistake of many shows, too
    pixels = np.zeros((*matrix.shape, 4), np.uint8)
    pixels[..., :3] = _HEAT
    pixels[..., 3] = np.rint(255 * heat)
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, "png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()


@FuncFormatter
def _percent(share: float, _position: int | None = None) -> str:
    return f"{100 * share:g}%"


def _accuracy_curves(axes: Axes, candidates: Sequence[CandidateOutcome]) -> None:
    """Draw accuracy on a scale on which 90, 99 and 99.9% are equally far apart.

    On an even one, candidates that differ by a quarter of their mistakes would lie on one line.
    """
    drawn = []
    for candidate in candidates:
        for measure, validation in (("accuracy", False), ("validation_accuracy", True)):
            values = [min(value, _BEST_DRAWN) for value in _series(candidate, measure)]
            _line(axes, candidate, values, validation=validation)
            drawn += values
    _even_by_mistakes(axes, drawn)
    _finish(axes, "accuracy")


def _even_by_mistakes(axes: Axes, drawn: Sequence[float]) -> None:
    axes.set_yscale("function", functions=(_height, lambda height: 1 - 10.0**-height))
    axes.yaxis.set_major_locator(FixedLocator(_accuracy_ticks(min(drawn), max(drawn))))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(_percent)


def _height(accuracy: ArrayLike) -> NDArray[np.float64]:
    return -np.log10(np.maximum(1 - np.asarray(accuracy, np.float64), 1e-4))


def _accuracy_ticks(lowest: float, highest: float) -> list[float]:
    """Choose as many ticks as can be told apart."""
    least_distance = 0.09 * float(_height(highest) - _height(lowest))
    ticks: list[float] = []
    for tick in _ACCURACIES:
        if all(abs(_height(tick) - _height(other)) > least_distance for other in ticks):
            ticks.append(tick)
    return ticks


def _loss_curves(axes: Axes, candidates: Sequence[CandidateOutcome]) -> None:
    for candidate in candidates:
        for measure, validation in (("loss", False), ("validation_loss", True)):
            _line(axes, candidate, _series(candidate, measure), validation=validation)
    _finish(axes, "loss")


def _series(candidate: CandidateOutcome, measure: str) -> list[float]:
    """A figure of every epoch; not a number, which is not drawn, where it was not finite."""
    values = [getattr(epoch, measure) for epoch in candidate.history]
    return [math.nan if value is None else float(value) for value in values]


def _line(
    axes: Axes, candidate: CandidateOutcome, values: Sequence[float], *, validation: bool
) -> None:
    place = candidate.place % len(SERIES)
    axes.plot(
        [epoch.epoch for epoch in candidate.history],
        values,
        color=_COLOURS[place],
        marker=_MARKS[place] if validation else None,
        linestyle="-" if validation else (0, (3, 2)),
        linewidth=1.8 if validation else 1.1,
    )


def _finish(axes: Axes, title: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_title(title, loc="left", fontsize=11, color=_MUTED)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))  # 1: for one epoch
    axes.grid(axis="x", visible=False)


def _draw(name: str, plot: Callable[[Axes], None]) -> Markup:
    with mpl.rc_context(_STYLE | {"svg.hashsalt": name}):
        # About as wide as a phone's screen, so that its text is not scaled down there.
        figure = Figure(figsize=(5.2, 3.3), layout="constrained")
        plot(figure.add_subplot())
        stream = StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata=dict.fromkeys(_METADATA))
    return Markup(_for_the_page(stream.getvalue(), name))


_METADATA = ("Creator", "Date", "Format", "Type")


def _for_the_page(svg: str, name: str) -> str:
    """Reduce a file to what may stand in an HTML page beside others, without any address in it."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (xmlns(:xlink)?|version)="[^"]*"', "", svg).replace("xlink:href", "href")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r'(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;]+; ", "", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    # A description stands in the page; a reader's software need not read out every tick.
    return svg.replace("<svg", '<svg aria-hidden="true"', 1)
