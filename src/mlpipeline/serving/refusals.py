"""What a client is told when its request cannot be answered: got, expected, what to do."""

from __future__ import annotations

from kserve.errors import InvalidInput

_LONGEST = 200  # of what a client sent: gRPC cuts a status off that does not fit a header


class Unavailable(Exception):  # noqa: N818  # as KServe names its own
    """A right request cannot be answered now: a 503 on REST and UNAVAILABLE on gRPC."""


class VersionNotFound(Exception):  # noqa: N818  # as KServe names its own
    """A version is asked for that is not served: a 404 on REST and NOT_FOUND on gRPC."""

    def __init__(self, name: str, asked: str, served: str) -> None:
        """Say what is asked for, and what is there.

        Args:
            name: What the model is called.
            asked: The version that is asked for.
            served: The version that is served.
        """
        super().__init__(
            explain(
                f"{name}, version {asked}",
                expected=f"version {served}, the only one that is served here",
                remedy="ask for that one, or for none: then it is whichever is served",
            )
        )


def refusal(got: str, *, expected: str, remedy: str) -> InvalidInput:
    """Return the error that becomes a 400 on REST and INVALID_ARGUMENT on gRPC.

    Args:
        got: What was found in the request.
        expected: What should have been there.
        remedy: What the client can do.
    """
    return InvalidInput(explain(got, expected=expected, remedy=remedy))


def not_images(got: str) -> InvalidInput:
    """Return the refusal of V2 tensors that are not one of images.

    Args:
        got: What was found in the request.
    """
    return refusal(
        got,
        expected="one UINT8 tensor of raw pixels",
        remedy="send all images in one tensor [N,...]; GET /v2/models/NAME shows its shape",
    )


def explain(got: str, *, expected: str, remedy: str) -> str:
    """Return the text of a refusal, with what the client sent cut to a length that fits a header.

    Args:
        got: What was found in the request.
        expected: What should have been there.
        remedy: What the client can do.
    """
    got = got if len(got) <= _LONGEST else got[:_LONGEST] + "..."
    return f"got {got}; expected {expected}; to do: {remedy}"
