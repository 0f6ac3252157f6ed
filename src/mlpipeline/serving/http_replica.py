"""A connection to a replica by HTTP: V2 binary over connections that it keeps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from typing import NamedTuple

import httpx

from mlpipeline.serving import clients, page
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.page import Part
from mlpipeline.serving.sharding import Description, RefusalError, ReplicaError

_CONNECT_SECONDS = 5.0  # the address of a pod that has gone says nothing at all
# Less than uvicorn's 5 s: nothing is sent on a connection that the replica is about to close.
_KEEP_ALIVE_SECONDS = 3.0
# A replica that is not there, or not ready, or not the model's: these say nothing of the request.
_NOT_THE_REQUESTS_FAULT = {
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


TIMING = "server-timing"
"""The header that says how long an answer took: https://www.w3.org/TR/server-timing/."""


class Answer(NamedTuple):
    """What a replica says of some images.

    Attributes:
        probabilities: float32 (N, classes).
        version: The version of the model that gave them.
        seconds: How long they took to compute, with the wait for a batch, and without the way.
    """

    probabilities: Probabilities
    version: str
    seconds: float


class HttpReplica:
    """A connection to a replica's REST port: the front's `Replica`."""

    def __init__(self, address: str, name: str, seconds: float) -> None:
        """Prepare connections, without waiting for any.

        Args:
            address: HOST:PORT of the replica.
            name: What the model is called in URLs.
            seconds: Time-out of each request.
        """
        self._http = httpx.AsyncClient(
            base_url=f"http://{address}",
            timeout=httpx.Timeout(seconds, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_SECONDS),
            trust_env=False,  # no proxy
        )
        self._path = f"/v2/models/{name}"

    async def describe(self) -> Description:
        """Ask for the model's metadata.

        Raises:
            ReplicaError: It did not answer, or is no replica of such a model.
            RefusalError: It refused the request.
        """
        response = await self._send("GET", self._path)
        with self._reading():
            metadata = response.json()
            return Description(response.headers["x-served-by"], metadata["versions"][-1], metadata)

    async def predict(self, images: Images) -> tuple[Probabilities, str]:
        """Return the probabilities of images, and the version that gave them.

        Args:
            images: uint8 (N, H, W) or (N, H, W, C).

        Raises:
            ReplicaError: It did not answer, or not as a replica does.
            RefusalError: It refused the request.
        """
        _, prediction = await self._infer(images)
        return prediction.probabilities, prediction.version

    async def ask(self, images: Images) -> Answer:
        """Return what it says of images, and how long it took there.

        Args:
            images: uint8 (N, H, W) or (N, H, W, C).

        Raises:
            ReplicaError: It did not answer, or not as a replica does.
            RefusalError: It refused the request.
        """
        response, prediction = await self._infer(images)
        with self._reading():
            milliseconds = response.headers[TIMING].rpartition("=")[2]
            return Answer(prediction.probabilities, prediction.version, float(milliseconds) / 1000)

    async def part_of_page(self, name: str) -> Part | None:
        """Return a file of its page; None if it has no such file, or no page.

        Args:
            name: Name of the file.

        Raises:
            ReplicaError: It did not answer, or not as a replica does.
        """
        response = await self._request("GET", f"{page.FOLDER}/{name}")
        if response.status_code == HTTPStatus.NOT_FOUND:
            return None
        if not response.is_success:
            raise ReplicaError(f"{self._http.base_url}: {response.status_code}")
        with self._reading():
            kind, policy = (response.headers[each] for each in ("content-type", page.POLICY_HEADER))
            return Part(response.content, kind, policy)

    async def post_feedback(self, event: bytes) -> None:
        """Hand a `feedback` event on.

        Args:
            event: Its JSON.

        Raises:
            ReplicaError: It did not answer, or has no page.
            RefusalError: It refused the event.
        """
        headers = {"content-type": "application/json"}
        await self._send("POST", f"{page.FOLDER}/{page.FEEDBACK}", event, headers)

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _infer(self, images: Images) -> tuple[httpx.Response, clients.Prediction]:
        content, headers = clients.binary_request(images)
        response = await self._send("POST", f"{self._path}/infer", content, headers)
        with self._reading():
            return response, clients.binary_prediction(response)

    async def _send(
        self, method: str, path: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        response = await self._request(method, path, content, headers)
        if response.is_success:
            return response
        if response.is_client_error and response.status_code not in _NOT_THE_REQUESTS_FAULT:
            with self._reading():
                raise RefusalError(response.json()["error"])
        text = f"{response.status_code} {response.text[:200]}"
        raise ReplicaError(f"{self._http.base_url}: {text}")

    async def _request(
        self, method: str, path: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            return await self._http.request(method, path, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise ReplicaError(f"{self._http.base_url}: {error!r}") from error

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Turn the errors of reading a response into the one that says whose response it was."""
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            raise ReplicaError(f"{self._http.base_url} is no replica: {error!r}") from error
