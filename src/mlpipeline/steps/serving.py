"""Serve: one replica of the model server, in the foreground.

It is the command of the InferenceService's predictor, and locally of each of several replicas.
"""

from __future__ import annotations

from pathlib import Path

from mlpipeline import progress
from mlpipeline.serving import model
from mlpipeline.serving.predictor import Predictor
from mlpipeline.serving.server import ReplicaServer, ServerSettings


def serve(
    version: Path,
    *,
    name: str,
    http_port: int,
    grpc_port: int,
    replica: str,
    host: str = "0.0.0.0",
    metrics: bool = True,
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

    Raises:
        ArtifactError: The model is missing or damaged.
        ServingError: It is not such a model, or a port is in use.
    """
    predictor = Predictor(name, model.load(version, is_alone=True), metrics=metrics)
    settings = ServerSettings(host, http_port, grpc_port, replica)
    server = ReplicaServer(settings, lambda: progress.report(1, 1, ready=replica))
    server.start([predictor])
