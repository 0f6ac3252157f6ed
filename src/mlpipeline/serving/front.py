"""The front of a sharded service: speaks every protocol as a replica does, and asks the replicas.

To them it speaks V2 binary over connections that it keeps. It needs no TensorFlow: what it knows
of the model it has from the replicas. In a cluster it is KServe's transformer.
https://kserve.github.io/website/docs/model-serving/predictive-inference/transformers
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Any

import httpx
from kserve import InferRequest, InferResponse, Model
from kserve.errors import InvalidInput

from mlpipeline.serving import clients, messages
from mlpipeline.serving.dataplane import StrictDataPlane
from mlpipeline.serving.refusals import Unavailable, explain
from mlpipeline.serving.server import ReplicaServer, ServerSettings
from mlpipeline.serving.sharding import (
    Description,
    Images,
    NoAnswerError,
    Probabilities,
    RefusalError,
    ReplicaError,
    ShardedService,
)

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
    """A replica's REST port."""

    def __init__(self, address: str, name: str, seconds: float) -> None:
        """Prepare connections to HOST:PORT that wait up to `seconds` for each answer."""
        self._http = httpx.AsyncClient(
            base_url=f"http://{address}",
            timeout=httpx.Timeout(seconds, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(keepalive_expiry=_KEEP_ALIVE_SECONDS),
            trust_env=False,  # no proxy
        )
        self._path = f"/v2/models/{name}"

    async def describe(self) -> Description:
        """Ask for the model's metadata."""
        response = await self._send("GET", self._path)
        with self._making_sense():
            metadata = response.json()
            return Description(response.headers["x-served-by"], metadata["versions"][-1], metadata)

    async def predict(self, images: Images) -> tuple[Probabilities, str]:
        """Return the probabilities of images, and the version that gave them."""
        content, headers = clients.binary_request(images)
        response = await self._send("POST", f"{self._path}/infer", content, headers)
        with self._making_sense():
            answer = clients.binary_answer(response)
            return answer.probabilities, answer.version

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def _send(
        self, method: str, path: str, content: bytes = b"", headers: dict[str, str] | None = None
    ) -> httpx.Response:
        try:
            response = await self._http.request(method, path, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise ReplicaError(f"{self._http.base_url}: {error!r}") from error
        if response.is_success:
            return response
        if response.is_client_error and response.status_code not in _NOT_THE_REQUESTS_FAULT:
            with self._making_sense():
                raise RefusalError(response.json()["error"])
        text = f"{response.status_code} {response.text[:200]}"
        raise ReplicaError(f"{self._http.base_url}: {text}")

    @contextmanager
    def _making_sense(self) -> Iterator[None]:
        try:
            yield
        except (LookupError, TypeError, ValueError) as error:
            raise ReplicaError(f"{self._http.base_url} is no replica: {error!r}") from error


class Resolver:
    """Finds the addresses of replicas by their names, as a headless Service has them in the DNS."""

    def __init__(self, places: Sequence[str]) -> None:
        """Look for replicas at HOST:PORT, where a host may be many."""
        self._places = [place.rsplit(":", 1) for place in places]
        self._known: dict[str, set[str]] = {}

    async def find(self) -> set[str]:
        """Return HOST:PORT of each address that there is now."""
        loop = asyncio.get_running_loop()
        for host, port in self._places:
            try:
                found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            except OSError:
                # No news: who does not answer is not asked, and a name server that has a bad
                # moment takes nobody away.
                continue
            self._known[host + port] = {_address(info[4]) for info in found}
        return set().union(*self._known.values())


def _address(sockaddr: Sequence[Any]) -> str:
    host, port = sockaddr[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Front(Model):  # type: ignore[misc]  # KServe is untyped
    """The model as clients of the front see it."""

    def __init__(self, name: str, service: ShardedService) -> None:
        """Answer for the model `name` by a service."""
        super().__init__(name, return_response_headers=True)
        self._service = service

    async def healthy(self) -> bool:
        """Whether at least one replica answers: with fewer of them it is slower, not wrong."""
        return self._service.description() is not None

    def metadata(self) -> dict[str, Any]:
        """Return what the replicas say of the model."""
        return dict(self._description().metadata)

    def validate(self, payload: Any) -> Any:
        """Leave all checks to `predict`, whose errors say what to do."""
        return payload

    async def predict(
        self,
        payload: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> dict[str, Any] | InferResponse:
        """Answer a request of either protocol, as `messages` describes them.

        Args:
            payload: The request.
            headers: The request's; not used.
            response_headers: The answer's: they get the names of the replicas that took part.

        Raises:
            InvalidInput: The request does not hold images that the model takes.
            Unavailable: The replicas did not answer.
        """
        (images,) = self._description().metadata["inputs"]
        batch = messages.read(payload, tuple(images["shape"][1:]))
        try:
            found = await self._service.predict(batch)
        except RefusalError as error:
            raise InvalidInput(str(error)) from None
        except NoAnswerError as error:
            raise _unavailable(f"from the replicas: {error}") from None
        if response_headers is not None:
            response_headers["x-served-by"] = ", ".join(found.replicas)
        return messages.answer(payload, found.probabilities, name=self.name, version=found.version)

    def _description(self) -> Description:
        description = self._service.description()
        if description is None:
            raise _unavailable("no replica that answers")
        return description


class _FrontDataPlane(StrictDataPlane):
    async def ready(self) -> bool:
        """Whether a prediction would be answered; KServe's own is ready whenever it listens."""
        return all([await front.healthy() for front in self.model_registry.get_models().values()])

    async def model_metadata(self, model_name: str) -> dict[str, Any]:
        """Return the metadata of the replicas."""
        front: Front = self.get_model_from_registry(model_name)
        return front.metadata()


class FrontServer(ReplicaServer):
    """A replica's server, with a service of other replicas behind it."""

    def __init__(
        self,
        settings: ServerSettings,
        on_ready: Callable[[], None],
        service: ShardedService,
        at_least: int,
    ) -> None:
        """Make a server that listens once `at_least` so many replicas answer."""
        super().__init__(settings, on_ready)
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
