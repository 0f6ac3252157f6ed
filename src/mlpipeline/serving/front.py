"""The front of a sharded service: speaks every protocol as a replica does, and asks the replicas.

To them it speaks V2 binary over connections that it keeps. It needs no TensorFlow: what it knows
of the model it has from the replicas. In a cluster it is KServe's transformer.
https://kserve.github.io/website/docs/model-serving/predictive-inference/transformers
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from kserve.errors import InvalidInput

from mlpipeline import addresses
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
    ShardedService,
)

_Result = TypeVar("_Result")


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
        self, images: Images, response_headers: dict[str, str] | None, *, asked: str | None
    ) -> tuple[Probabilities, str]:
        """Have the replicas compute the probabilities of images.

        Args:
            images: uint8 (N, *input_shape).
            response_headers: They get the names of the replicas that took part.
            asked: Not used.

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
