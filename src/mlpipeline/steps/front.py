"""Front: cuts large requests into pieces for the replicas of a sharded service, in the foreground.

It is the command of the InferenceService's transformer, and locally of the process that has the
model's address.

KServe's controller adds options to the arguments of every transformer's container, spelt as its own
`ModelServer` spells them, and a container that does not take them does not start. So the command
line knows three that nobody writes by hand:

    --model_name NAME        another spelling of `--name`
    --http_port PORT         another spelling of `--port`
    --predictor_host HOST    taken and not used: the predictor's Service is one address for all
                             replicas, and the front has to know each (`--replicas`)

https://kserve.github.io/website/docs/model-serving/predictive-inference/transformers
"""

from __future__ import annotations

from collections.abc import Sequence

from mlpipeline import progress
from mlpipeline.serving.front import Front, FrontServer, Resolver
from mlpipeline.serving.http_replica import HttpReplica
from mlpipeline.serving.server import ServerSettings
from mlpipeline.serving.sharding import Limits, ShardedService


def serve(
    replicas: Sequence[str],
    *,
    name: str,
    http_port: int,
    grpc_port: int,
    front: str,
    at_least: int = 1,
    piece: int = Limits.piece,
    host: str = "0.0.0.0",
) -> None:
    """Serve a model by its replicas until SIGTERM or SIGINT, as a replica would.

    It listens only once enough replicas answer; then it prints a line of progress with
    `ready=FRONT`.

    Args:
        replicas: HOST:PORT of each replica, or of a name that stands for many.
        name: What the model is called in URLs, the front's and the replicas'.
        http_port: The REST port (V1 and V2).
        grpc_port: The gRPC port (V2).
        front: This front's name; every response has it in `x-served-by`, before the replicas'.
        at_least: How many replicas must answer at the start.
        piece: The most images that a replica is sent at once.
        host: The address to listen on. In a pod that must be all of them.

    Raises:
        ServingError: A port is in use.
    """
    limits = Limits(piece=piece)
    service = ShardedService(
        Resolver(replicas).find,
        lambda address: HttpReplica(address, name, limits.attempt_seconds),
        limits,
    )
    settings = ServerSettings(host, http_port, grpc_port, front)
    server = FrontServer(settings, lambda: progress.report(1, 1, ready=front), service, at_least)
    server.start([Front(name, service)])
