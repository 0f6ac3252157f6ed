"""The base of all models that we serve: to KServe, images in and probabilities out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from kserve import InferRequest, InferResponse, Model
from kserve.metrics import PREDICT_HIST_TIME, get_labels
from prometheus_client.registry import Collector

from mlpipeline.serving import messages
from mlpipeline.serving.arrays import Images, Probabilities
from mlpipeline.serving.refusals import VersionNotFound


class ImagesModel(Model):  # type: ignore[misc]  # KServe is untyped
    """A KServe model of images; who computes the probabilities is up to its subclasses.

    KServe calls it for each request, `metadata` is called by our data plane.
    """

    def __init__(self, name: str) -> None:
        """Make a model that is not ready.

        Args:
            name: What it is called in URLs.
        """
        super().__init__(name)
        self._seconds = PREDICT_HIST_TIME.labels(**get_labels(name))

    async def __call__(
        self,
        body: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
    ) -> tuple[dict[str, Any] | InferResponse, dict[str, str]]:
        """Answer a request, and time that.

        KServe's own looks for three more steps and times each: a tenth of a quick prediction.

        Args:
            body: The request.
            headers: The request's headers.

        Returns:
            The response, and its headers.
        """
        response_headers: dict[str, str] = {}
        with self._seconds.time():
            return await self.predict(body, headers, response_headers), response_headers

    @property
    def collectors(self) -> Sequence[Collector]:
        """What `/metrics` tells of this model besides the times of its requests."""
        return ()

    @abstractmethod
    def metadata(self) -> dict[str, Any]:
        """Return a new dict of the model's metadata, as `messages.metadata` makes it."""

    @abstractmethod
    def input_shape(self) -> tuple[int, ...]:
        """Return the shape of one image: (H, W) or (H, W, C)."""

    @abstractmethod
    async def classify(
        self, images: Images, response_headers: dict[str, str] | None, *, asked: str | None
    ) -> tuple[Probabilities, str]:
        """Compute the probabilities of images.

        Args:
            images: uint8 (N, *input_shape).
            response_headers: Where to put what the response's headers shall say, if anywhere.
            asked: The version that the request is for, if it names one.

        Returns:
            The probabilities, float32 (N, classes), and the version of the model that gave them.
        """

    async def predict(
        self,
        payload: dict[str, Any] | InferRequest,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> dict[str, Any] | InferResponse:
        """Answer a request of either protocol, as `messages` describes them.

        Args:
            payload: The request.
            headers: The request's headers; not used.
            response_headers: Headers of the response, to be added to.

        Returns:
            The response, of the request's protocol.

        Raises:
            InvalidInput: The request does not hold images that the model takes.
            VersionNotFound: It is for a version that is not served.
            Unavailable: It cannot be answered now.
        """
        asked = payload.model_version if isinstance(payload, InferRequest) else None
        wanted = messages.outputs(payload)
        about = self.metadata() if asked or any(each.top for each in wanted) else None
        if about and asked:
            self._require(asked, about["versions"][-1])
        images = messages.read(payload, self.input_shape())
        messages.let_go(payload)
        probabilities, version = await self.classify(images, response_headers, asked=asked)
        if asked:  # behind a front the replicas may have got another meanwhile
            self._require(asked, version)
        classes = about["parameters"]["classes"] if about else ()
        return messages.response(
            payload, wanted, probabilities, name=self.name, version=version, classes=classes
        )

    def _require(self, asked: str, served: str) -> None:
        if asked != served:
            raise VersionNotFound(self.name, asked, served)
