"""The rule by which one variant of a model is served. It needs figures only: no model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlpipeline.plan.config import Precision
from mlpipeline.store.schemas.selection import ServedVariant, Variant

LARGEST_LOSS = 0.001
"""How much lower the validation accuracy of 8-bit integers may be: 0.1 points."""
LONGEST = 0.95
"""The largest share of float32's time that they may take with `auto`: less may be noise."""
LEAST_AGREEMENT = 0.99
"""The least share of validation images of which they must say the same class."""
AS_CONFIGURED = "as configured"
"""The reason of what the configuration leaves no choice about."""


def choose(exact: Variant, quantized: Sequence[Variant], precision: Precision) -> ServedVariant:
    """Return what is served by LiteRT, and of each other variant why it is not.

    Of several that are fit it is the one that says most often what float32 says: their times are
    too alike to decide, and differ from run to run.

    Args:
        exact: The variant of float32.
        quantized: Those of 8-bit integers, if any were made.
        precision: What is asked for.
    """
    judged = [_judged(variant, exact, must_be_faster=precision == "auto") for variant in quantized]
    fit = [variant for variant in judged if not variant.refused]
    if fit:
        chosen = max(fit, key=lambda v: (_known(v.agreement), _known(v.validation_accuracy)))
        share = _known(chosen.milliseconds) / _known(exact.milliseconds)
        reason = f"{share:.0%} of float32's time, {_known(chosen.agreement):.2%} the same classes"
    elif quantized:
        chosen, reason = exact, "no variant of 8-bit integers is fit"
    else:
        chosen, reason = exact, AS_CONFIGURED
    return ServedVariant(
        engine="litert",
        variant=chosen.name,
        precision=precision,
        reason=reason,
        variants=(exact, *judged),
    )


def _judged(variant: Variant, exact: Variant, *, must_be_faster: bool) -> Variant:
    refused = variant.refused or "; ".join(_faults(variant, exact, must_be_faster=must_be_faster))
    return variant.model_copy(update={"refused": refused})


def _faults(variant: Variant, exact: Variant, *, must_be_faster: bool) -> Iterator[str]:
    loss = _known(exact.validation_accuracy) - _known(variant.validation_accuracy)
    if loss > LARGEST_LOSS + 1e-9:  # both are quotients
        yield f"validation accuracy {100 * loss:.2f} points lower, {100 * LARGEST_LOSS:.1f} may be"
    if _known(variant.agreement) < LEAST_AGREEMENT:
        yield f"{variant.agreement:.2%} the same classes, {LEAST_AGREEMENT:.0%} must be"
    pairs = (
        ("one image", variant.milliseconds, exact.milliseconds),
        ("64 images", variant.batch_milliseconds, exact.batch_milliseconds),
    )
    for what, own, others in pairs if must_be_faster else ():
        if _known(own) > LONGEST * _known(others):
            yield f"not faster here: {what} in {own:.3f} ms, {others:.3f} ms as float32"


def _known(figure: float | None) -> float:
    assert figure is not None, "a variant that was made has its figures"
    return figure
