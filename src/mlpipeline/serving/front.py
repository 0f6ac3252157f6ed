"""The front of a sharded service: speaks every protocol as a replica does, and asks the replicas.

To them it speaks V2 binary over connections that it keeps. It needs no TensorFlow: what it knows
of the model it has from the replicas. In a cluster it is KServe's transformer.
https://kserve.github.io/website/docs/model-serving/predictive-inference/transformers
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any, TypeVar

import httpx
from kserve.errors import InvalidInput

from mlpipeline import addresses
from mlpipeline.serving import clients, page
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.dataplane import StrictDataPlane
from mlpipeline.serving.images_model import ImagesModel
from mlpipeline.serving.page import Part
from mlpipeline.serving.refusals import Unavailable, explain
from mlpipeline.serving.server import ReplicaServer, ServerSettings
from mlpipeline.serving.sharding import (
    Description,
    NoAnswerError,
    RefusalError,
    Replica,
    ReplicaError,
    ShardedService,
)

_Result = TypeVar("_Result")

_CONNECT_SECONDS = 5.0  # the address of a pod that has gone says nothing at all
# Less than uvicorn's 5 s: nothing is sent on a connection that the replica is about to close.
_KEEP_ALIVE_SECONDS = 3.0
# A replica that is not there, or not ready, or not the model's: these say nothing of the request.
_NOT_THE_REQUESTS_FAULT = {
    HTTPStatus.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.TOO_MANY_REQUESTS,
}


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
        content, headers = clients.binary_request(images)
        response = await self._send("POST", f"{self._path}/infer", content, headers)
        with self._reading():
            prediction = clients.binary_prediction(response)
            return prediction.probabilities, prediction.version

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


class Resolver:
    """Finds the addresses of replicas by their names, as a headless Service has them in the DNS.

    https://kubernetes.io/docs/concepts/services-networking/service/#headless-services
    """

    def __init__(self, names: Sequence[str]) -> None:
        """Remember where to look.

        Args:
            names: HOST:PORT each, where one host may have many addresses.
        """
        parted = [name.rpartition(":") for name in names]
        self._names = [(host.strip("[]"), port) for host, _, port in parted]
        self._known: dict[str, set[str]] = {}

    async def find(self) -> set[str]:
        """Return HOST:PORT of each address that there is now."""
        loop = asyncio.get_running_loop()
        for host, port in self._names:
            try:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError:
                # Keep what is known: a replica that has gone does not answer and so is not asked,
                # but one is not to be lost because the name server has a bad moment.
                continue
            self._known[host + port] = {_address(info[4]) for info in found}
        return set().union(*self._known.values())


def _address(sockaddr: Sequence[Any]) -> str:
    return addresses.join(*sockaddr[:2])


class Front(ImagesModel):
    """The model as clients of the front see it: KServe's transformer."""

    def __init__(self, name: str, service: ShardedService) -> None:
        """Make a front.

        Args:
            name: What the model is called in URLs.
            service: The replicas that compute.
        """
        super().__init__(name)
        self._service = service

    async def healthy(self) -> bool:
        """Whether at least one replica answers: with fewer of them it is slower, not wrong."""
        return self._service.description() is not None

    def metadata(self) -> dict[str, Any]:
        """Return what the replicas say of the model.

        Raises:
            Unavailable: No replica answers.
        """
        return dict(self._description().metadata)

    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one image.

        Raises:
            Unavailable: No replica answers.
        """
        (images,) = self._description().metadata["inputs"]
        return tuple(images["shape"][1:])

    async def classify(
        self, images: Images, response_headers: dict[str, str] | None
    ) -> tuple[Probabilities, str]:
        """Have the replicas compute the probabilities of images.

        Args:
            images: uint8 (N, *input_shape).
            response_headers: They get the names of the replicas that took part.

        Returns:
            The probabilities, float32 (N, classes), and the version of the model.

        Raises:
            InvalidInput: A replica refused the images.
            Unavailable: The replicas did not answer.
        """
        try:
            prediction = await self._service.predict(images)
        except RefusalError as error:
            raise InvalidInput(str(error)) from None
        except NoAnswerError as error:
            raise _unavailable(f"from the replicas: {error}") from None
        if response_headers is not None:
            response_headers["x-served-by"] = ", ".join(prediction.replicas)
        return prediction.probabilities, prediction.version

    def _description(self) -> Description:
        description = self._service.description()
        if description is None:
            raise _unavailable("no replica that answers")
        return description


class FrontPage:
    """The page as the replicas have it: a front knows nothing of the model, and no settings."""

    def __init__(self, service: ShardedService) -> None:
        """Make a page.

        Args:
            service: The replicas that have one.
        """
        self._service = service

    async def part(self, name: str) -> Part | None:
        """Return a file of the page; None if there is none of that name, or no page.

        Args:
            name: Name of the file.

        Raises:
            Unavailable: No replica answers.
        """
        return await self._of_one(lambda replica: replica.part_of_page(name))

    async def post(self, event: bytes) -> None:
        """Hand a `feedback` event on.

        Args:
            event: Its JSON.

        Raises:
            InvalidInput: A replica does not accept it.
            Unavailable: No replica answers.
        """
        await self._of_one(lambda replica: replica.post_feedback(event))

    async def _of_one(self, ask: Callable[[Replica], Awaitable[_Result]]) -> _Result:
        try:
            return await self._service.ask_one(ask)
        except RefusalError as error:
            raise InvalidInput(str(error)) from None
        except NoAnswerError as error:
            raise _unavailable(f"from the replicas: {error}") from None


class _FrontDataPlane(StrictDataPlane):
    async def ready(self) -> bool:
        """Whether a prediction would be answered; KServe's own is ready whenever it listens."""
        return all([await front.healthy() for front in self.model_registry.get_models().values()])


class FrontServer(ReplicaServer):
    """A replica's server, with a service of other replicas behind it."""

    def __init__(
        self,
        settings: ServerSettings,
        on_ready: Callable[[], None],
        service: ShardedService,
        at_least: int,
    ) -> None:
        """Make a server that does not listen yet.

        Args:
            settings: Where and how it serves.
            on_ready: Called once it listens.
            service: The replicas behind it.
            at_least: It listens once so many replicas answer.
        """
        super().__init__(settings, on_ready, FrontPage(service))
        self.dataplane = _FrontDataPlane(self.registered_models)
        self._service = service
        self._at_least = at_least

    async def _serve(self) -> None:
        async with self._service.following():
            await self._service.until_answering(self._at_least)
            await super()._serve()


def _unavailable(got: str) -> Unavailable:
    return Unavailable(
        explain(
            got,
            expected="that at least one replica answers",
            remedy="try again in some seconds; if that goes on, look at the log of the replicas",
        )
    )
