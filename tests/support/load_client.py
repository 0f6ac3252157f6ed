"""A client that asks a served model all the time, and remembers which versions answered."""

from __future__ import annotations

import threading
from typing import Self

import httpx
import numpy as np

from mlpipeline.errors import ServingError
from mlpipeline.serving.clients import V1Client

_IMAGES = np.random.default_rng(0).integers(0, 256, (4, 28, 28), dtype=np.uint8)
_ANSWER_SECONDS = 60.0
# It leaves the processors of a small machine some time.
_PAUSE_SECONDS = 0.1


class Asking:
    """Asks for predictions on a kept connection and for the version on a new one, in turn.

    Attributes:
        sent: How many predictions it has asked for.
        versions: Which versions it was told of, each once, in that order.
        failures: What was no answer.
    """

    def __init__(self, url: str, model: str) -> None:
        self.sent = 0
        self.versions: list[str] = []
        self.failures: list[str] = []
        self._url, self._model = url, model
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(3 * _ANSWER_SECONDS)

    def _ask(self) -> None:
        with V1Client(self._url, self._model) as client:
            while not self._stop.wait(_PAUSE_SECONDS):
                self.sent += 1
                try:
                    client.predict(_IMAGES, _ANSWER_SECONDS)
                    version = self._version()
                except (ServingError, httpx.HTTPError) as error:
                    self.failures.append(repr(error))
                else:
                    if version not in self.versions:
                        self.versions.append(version)

    def _version(self) -> str:
        place = f"{self._url}/v2/models/{self._model}"
        answer = httpx.get(place, timeout=_ANSWER_SECONDS).raise_for_status().json()
        return str(answer["versions"][0])
