"""Dynamic batching: requests that arrive while a batch runs become the next batch.

There is no waiting for company: an idle model runs a lone request at once, a busy one finds its
next batch in the queue. The model runs in threads of its own, so the event loop stays free.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(eq=False, slots=True)
class _Piece:
    inputs: Array
    outputs: asyncio.Future[Array]


class Batcher:
    """Runs a function of a batch for the many callers of an event loop."""

    def __init__(
        self, function: Callable[[Array], Array], *, max_batch: int, threads: int = 1
    ) -> None:
        """Start the threads that run the batches.

        Args:
            function: Maps inputs of shape (N, ...) to outputs of shape (N, ...), row by row.
            max_batch: The largest N that it is given.
            threads: How many batches may run at the same time.
        """
        self._function = function
        self._max_batch = max_batch
        self._waiting: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"batches-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, inputs: Array) -> Array:
        """Return the function's outputs for `inputs`, whichever batches they ran in.

        Of a request larger than a batch, only as many pieces as can run are in the queue at a time,
        so that others get their turn between.

        Raises:
            Exception: What the function raised for a batch that held some of these inputs.
        """
        size = self._max_batch
        if len(inputs) <= size:
            return await self._submit(inputs)
        outputs: list[Array] = []
        running: deque[asyncio.Future[Array]] = deque()
        try:
            for start in range(0, len(inputs), size):
                if len(running) == len(self._threads):
                    outputs.append(await running[0])
                    running.popleft()
                running.append(self._submit(inputs[start : start + size]))
            outputs += [await piece for piece in running]
        finally:
            for piece in running:  # if one failed, or the client has gone
                piece.cancel()
        return np.concatenate(outputs)

    def close(self) -> None:
        """Run what is queued, then end the threads."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _submit(self, inputs: Array) -> asyncio.Future[Array]:
        piece = _Piece(inputs, asyncio.get_running_loop().create_future())
        self._waiting.put(piece)
        return piece.outputs

    def _work(self) -> None:
        first = self._waiting.get()
        while first is not None:
            batch, first = self._gather(first)
            # The client of a cancelled piece has gone.
            if batch := [piece for piece in batch if not piece.outputs.cancelled()]:
                self._run_batch(batch)
            first = first or self._waiting.get()

    def _gather(self, first: _Piece) -> tuple[list[_Piece], _Piece | None]:
        """Take what waits behind `first`, as far as it fits.

        Returns:
            The batch, and the piece that did not fit, if there was one.
        """
        batch, room = [first], self._max_batch - len(first.inputs)
        with contextlib.suppress(queue.Empty):
            while room > 0:
                piece = self._waiting.get_nowait()
                if piece is None:
                    self._waiting.put(None)  # the end: not yet
                    break
                if len(piece.inputs) > room:
                    return batch, piece
                batch.append(piece)
                room -= len(piece.inputs)
        return batch, None

    def _run_batch(self, batch: Sequence[_Piece]) -> None:
        loop = batch[0].outputs.get_loop()
        try:
            inputs = [piece.inputs for piece in batch]
            outputs = self._function(inputs[0] if len(inputs) == 1 else np.concatenate(inputs))
        except Exception as error:  # it belongs to the callers; the thread lives on
            loop.call_soon_threadsafe(_fail, batch, error)
        else:
            loop.call_soon_threadsafe(_deliver, batch, outputs)


def _deliver(batch: Sequence[_Piece], outputs: Array) -> None:
    start = 0
    for piece in batch:
        end = start + len(piece.inputs)
        if not piece.outputs.done():
            piece.outputs.set_result(outputs[start:end])
        start = end


def _fail(batch: Sequence[_Piece], error: Exception) -> None:
    for piece in batch:
        if not piece.outputs.done():
            piece.outputs.set_exception(error)
