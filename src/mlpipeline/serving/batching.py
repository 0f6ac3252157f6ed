"""Dynamic batching: requests that arrive while a batch runs become the next batch.

There is no waiting for company: an idle model runs a lone request at once, a busy one finds its
next batch in the queue. One thread runs the model, so the event loop stays free.
"""

from __future__ import annotations

import asyncio
import queue
import threading
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

    def __init__(self, function: Callable[[Array], Array], *, max_batch: int) -> None:
        """Start the thread that runs the batches.

        Args:
            function: Maps inputs of shape (N, ...) to outputs of shape (N, ...), row by row.
            max_batch: The largest N that it is given.
        """
        self._function = function
        self._max_batch = max_batch
        self._waiting: queue.SimpleQueue[_Piece | None] = queue.SimpleQueue()
        self._held: _Piece | None = None
        self._thread = threading.Thread(target=self._work, name="batches", daemon=True)
        self._thread.start()

    async def run(self, inputs: Array) -> Array:
        """Return the function's outputs for `inputs`, whichever batches they ran in.

        A request larger than a batch goes piece by piece, so that others get their turn between.

        Raises:
            Exception: What the function raised for a batch that held some of these inputs.
        """
        size = self._max_batch
        if len(inputs) <= size:
            return await self._submit(inputs)
        pieces = (inputs[start : start + size] for start in range(0, len(inputs), size))
        return np.concatenate([await self._submit(piece) for piece in pieces])

    def close(self) -> None:
        """Run what is queued, then end the thread."""
        self._waiting.put(None)
        self._thread.join()

    def _submit(self, inputs: Array) -> asyncio.Future[Array]:
        piece = _Piece(inputs, asyncio.get_running_loop().create_future())
        self._waiting.put(piece)
        return piece.outputs

    def _work(self) -> None:
        while (batch := self._next_batch()) is not None:
            # The client of a cancelled piece has gone.
            if batch := [piece for piece in batch if not piece.outputs.cancelled()]:
                self._run_batch(batch)

    def _next_batch(self) -> list[_Piece] | None:
        """Wait for a piece and take what waits behind it, as far as it fits; None at the end."""
        first = self._held or self._waiting.get()
        self._held = None
        if first is None:
            return None
        batch, room = [first], self._max_batch - len(first.inputs)
        while room > 0 and not self._waiting.empty():
            piece = self._waiting.get()
            if piece is None:
                self._waiting.put(None)  # the end is for the next call
                break
            if len(piece.inputs) > room:
                self._held = piece
                break
            batch.append(piece)
            room -= len(piece.inputs)
        return batch

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
