"""Dynamic batching: requests that arrive while a batch runs become the next batch.

No request waits for others to fill its batch: an idle model runs a single request at once, a busy
one finds its next batch in the queue. The model runs in threads of its own, so the event loop stays
free; but for a request that is alone and done in less time than two changes of threads take.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

_log = logging.getLogger(__name__)

# What may be computed in the event loop's thread, which meanwhile reads no request.
_QUICK_SECONDS = 0.0005
_TRIES = 3
_AT_ONCE = (0.0,)

Array = npt.NDArray[Any]
"""A batch: rows of any shape and type."""

Observer = Callable[[Array, Array, Sequence[float]], None]
"""Is told of a batch: its inputs, its outputs, and how many seconds each of its requests waited.

It is called where the batch was computed, be it the event loop: it must be quick, and must keep no
inputs, which may be a part of something much larger.
"""

_Computed = tuple[Array, Array, Sequence[float]]


@dataclass(eq=False, slots=True)
class _WorkItem:
    """A request, or as much of it as fits in a batch."""

    inputs: Array
    outputs: asyncio.Future[Array]
    since: float = field(default_factory=time.perf_counter)


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
        self._observers: list[Observer] = []
        self._max_batch = max_batch
        self._quick = 0  # rows that may be computed in the event loop's thread
        self._arriving = 0  # requests that may become alone
        self._unfinished = 0  # items that the threads have, their clients there or gone
        self._waiting: queue.SimpleQueue[_WorkItem | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"batches-{index}", daemon=True)
            for index in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def measure(self, row: Array) -> None:
        """Find out how many rows are computed so quickly that the event loop's thread may do it.

        Until then it computes none.

        Args:
            row: Any inputs, (1, ...).
        """
        times = []
        for _ in range(_TRIES):
            start = time.perf_counter()
            self._function(row)
            times.append(time.perf_counter() - start)
        self._quick = min(self._max_batch, int(_QUICK_SECONDS / min(times)))

    async def run(self, inputs: Array) -> Array:
        """Return the function's outputs for `inputs`, whichever batches they ran in.

        A request larger than a batch has only as many items in the queue as can run at a time, and
        one that is next, so that no thread waits and others get their turn between.

        Args:
            inputs: The rows of one request, (N, ...).

        Returns:
            A row of outputs for each row of inputs, in their order.

        Raises:
            Exception: What the function raised for a batch that held some of these inputs.
        """
        if len(inputs) <= self._quick and await self._is_alone():
            outputs = self._function(inputs)
            self._tell(inputs, outputs, _AT_ONCE)
            return outputs
        return await self._in_threads(inputs)

    def add_observer(self, observer: Observer) -> None:
        """Tell somebody of each batch that is answered from now on."""
        self._observers.append(observer)

    def queue_length(self) -> int:
        """Return how many requests, or pieces of large ones, wait for a batch."""
        return self._waiting.qsize()

    async def _is_alone(self) -> bool:
        """Return whether nothing else is to be computed, nor is being computed."""
        self._arriving += 1
        try:
            await asyncio.sleep(0)  # those that were read together with this one get here, too
            return self._arriving == 1 and self._unfinished == 0
        finally:
            self._arriving -= 1

    async def _in_threads(self, inputs: Array) -> Array:
        size = self._max_batch
        if len(inputs) <= size:
            return await self._submit(inputs)
        outputs: list[Array] = []
        running: deque[asyncio.Future[Array]] = deque()
        try:
            for start in range(0, len(inputs), size):
                if len(running) > len(self._threads):
                    outputs.append(await running[0])
                    running.popleft()
                running.append(self._submit(inputs[start : start + size]))
            outputs += [await item for item in running]
        finally:
            for item in running:  # if one failed, or the client has gone
                item.cancel()
        return np.concatenate(outputs)

    def close(self) -> None:
        """Run what is queued, then end the threads."""
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()

    def _submit(self, inputs: Array) -> asyncio.Future[Array]:
        item = _WorkItem(inputs, asyncio.get_running_loop().create_future())
        self._unfinished += 1
        self._waiting.put(item)
        return item.outputs

    def _work(self) -> None:
        first = self._waiting.get()
        while first is not None:
            batch, first = self._gather(first)
            computed, answer = self._answer(batch)
            with contextlib.suppress(RuntimeError):  # the loop has ended, and with it who waited
                loop = batch[0].outputs.get_loop()
                loop.call_soon_threadsafe(self._finish, batch, answer)
            if computed:  # the answer is on its way
                self._tell(*computed)
            first = first or self._waiting.get()

    def _gather(self, first: _WorkItem) -> tuple[list[_WorkItem], _WorkItem | None]:
        """Take what waits behind `first`, as far as it fits.

        Returns:
            The batch, and the item that did not fit, if there was one.
        """
        batch, room = [first], self._max_batch - len(first.inputs)
        with contextlib.suppress(queue.Empty):
            while room > 0:
                item = self._waiting.get_nowait()
                if item is None:
                    self._waiting.put(None)  # the end: not yet
                    break
                if len(item.inputs) > room:
                    return batch, item
                batch.append(item)
                room -= len(item.inputs)
        return batch, None

    def _answer(self, batch: Sequence[_WorkItem]) -> tuple[_Computed | None, Callable[[], None]]:
        """Compute a batch, and return what was computed, and what gives each caller its answer."""
        # The client of a cancelled item has gone.
        wanted = [item for item in batch if not item.outputs.cancelled()]
        if not wanted:
            return None, lambda: None
        begun = time.perf_counter()
        try:
            each = [item.inputs for item in wanted]
            inputs = each[0] if len(each) == 1 else np.concatenate(each)
            outputs = self._function(inputs)
        except Exception as error:  # it belongs to the callers; the thread lives on
            return None, partial(_fail, wanted, error)
        waited = [begun - item.since for item in wanted]
        return (inputs, outputs, waited), partial(_deliver, wanted, outputs)

    def _tell(self, inputs: Array, outputs: Array, waited: Sequence[float]) -> None:
        """Tell the observers of a batch: what goes wrong there is nobody's answer."""
        for observe in self._observers:
            try:
                observe(inputs, outputs, waited)
            except Exception:
                _log.exception("a batch of %d was answered, but not observed", len(inputs))

    def _finish(self, batch: Sequence[_WorkItem], answer: Callable[[], None]) -> None:
        self._unfinished -= len(batch)
        answer()


def _deliver(batch: Sequence[_WorkItem], outputs: Array) -> None:
    start = 0
    for item in batch:
        end = start + len(item.inputs)
        if not item.outputs.done():
            item.outputs.set_result(outputs[start:end])
        start = end


def _fail(batch: Sequence[_WorkItem], error: Exception) -> None:
    for item in batch:
        if not item.outputs.done():
            item.outputs.set_exception(error)
