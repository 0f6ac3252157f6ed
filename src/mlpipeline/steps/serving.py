"""Serve: one replica of the model server, in the foreground.

It is the command of the InferenceService's predictor, and locally of each of several replicas.
"""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path

from mlpipeline import progress
from mlpipeline.events import dropping
from mlpipeline.plan.config import INBOX, RequestLogging
from mlpipeline.serving import model, orders
from mlpipeline.serving.model import PublishedModel
from mlpipeline.serving.page import ReplicaPage
from mlpipeline.serving.predictor import Predictor
from mlpipeline.serving.request_log import RequestLog
from mlpipeline.serving.server import ReplicaServer, ServerSettings
from mlpipeline.store import signatures
from mlpipeline.store.files import damaged
from mlpipeline.store.layout import InboxFolder, ModelFolder


def serve(
    version: Path,
    *,
    name: str,
    http_port: int,
    grpc_port: int,
    replica: str,
    host: str = "0.0.0.0",
    metrics: bool = True,
    log: tuple[Path, RequestLogging] | None = None,
    page: bool = True,
    feedback: str = "",
    inbox: InboxFolder | None = None,
    is_shard: bool = False,
) -> None:
    """Serve a model until SIGTERM or SIGINT, then finish the requests under way and return.

    It listens only once the model has been verified, loaded and made to predict, so whoever can
    connect gets an answer; then it prints a line of progress with `ready=REPLICA`.

    Args:
        version: The folder of a published version.
        name: What the model is called in URLs.
        http_port: The REST port (V1 and V2), which replicas share.
        grpc_port: The gRPC port (V2), shared as well.
        replica: This replica's name; every response has it in `x-served-by`.
        host: The address to listen on. In a pod that must be all of them.
        metrics: Whether `/metrics` tells of the model, too.
        log: The folder that a sample of requests is written to, and how much; None for no log.
        page: Whether `/` is a page for browsers.
        feedback: Where that page may post corrected labels, as `serving.feedback` has it.
        inbox: The inbox that this may mean.
        is_shard: Whether it answers parts of requests, for a front.

    Raises:
        ArtifactError: The model is missing or damaged.
        ServingError: It is not such a model, or not signed as it must be, or a port is in use.
        ConfigurationError: The key that is trusted is none.
    """
    registered = ModelFolder(version)
    signed = signatures.check(registered, name)
    published = model.load(version, is_alone=True)
    if signed and published.digest != signed:
        raise damaged(
            registered.manifest, "it is not what was signed", "no change while it is loaded"
        )
    predictor = Predictor(name, published, metrics=metrics)
    with contextlib.ExitStack() as stack:
        if log:
            folder, settings = log
            requests = RequestLog(folder, name, published, settings)
            stack.callback(requests.close)
            predictor.add_observer(requests)
        address = ServerSettings(host, http_port, grpc_port, replica)
        server = ReplicaServer(
            address,
            lambda: progress.report(1, 1, ready=replica),
            _page(name, published, feedback, inbox) if page else None,
            beside=orders.following(registered.order, predictor, replica, only_shadow=is_shard),
        )
        server.start([predictor])


def _page(
    name: str, published: PublishedModel, feedback: str, inbox: InboxFolder | None
) -> ReplicaPage:
    if feedback != INBOX:
        return ReplicaPage(name, published, feedback=feedback)
    assert inbox is not None, "who says so has one"
    drop = partial(dropping.drop, inbox, model=name, classes=published.classes)
    return ReplicaPage(name, published, post=drop)
