"""Room for requests: each may be large, but not all at once."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from mlpipeline.serving.refusals import Unavailable, explain


class Room:
    """How many bytes of requests a replica holds at a time, of all protocols together.

    A body over REST counts as it comes, a message of gRPC once it has come. Only its
    event loop's thread uses it.
    """

    def __init__(self, most: int) -> None:
        """Begin with nothing held.

        Args:
            most: The most bytes.
        """
        self.most = most
        self.held = 0
        """The bytes that are held now."""

    def share(self) -> Share:
        """Return one request's share of it, with nothing in it yet."""
        return Share(self)


class Share:
    """What one request holds, until it is answered."""

    def __init__(self, room: Room) -> None:
        """Take nothing yet.

        Args:
            room: Where from.
        """
        self._room = room
        self._size = 0

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """Give back what was taken."""
        self._room.held -= self._size

    def take(self, size: int) -> None:
        """Take some bytes more.

        Args:
            size: How many.

        Raises:
            Unavailable: There is no room for them now.
        """
        room = self._room
        if room.held + size > room.most:
            raise Unavailable(
                explain(
                    f"{size} bytes more, with {room.held} bytes of requests that are not answered",
                    expected=f"at most {room.most} bytes in all of them",
                    remedy="try again in a second; send fewer images at once",
                )
            )
        room.held += size
        self._size += size
