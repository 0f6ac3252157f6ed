"""Ray Serve: a deployment with dynamic batches. `python ray_serve_app.py PORT`."""

from __future__ import annotations

import signal
import sys
from typing import Any

import numpy as np
import ray
from engine import MOST, Classifier
from ray import serve
from starlette.requests import Request


@serve.deployment(max_ongoing_requests=2 * MOST)
class Peer:
    """What answers a request."""

    def __init__(self) -> None:
        """Load the model."""
        self.classify = Classifier()

    @serve.batch(max_batch_size=MOST, batch_wait_timeout_s=0.001)
    async def predict(self, images: list[Any]) -> list[Any]:
        """Compute what came together."""
        return list(self.classify(np.stack(images)).tolist())

    async def __call__(self, request: Request) -> Any:
        """Answer one."""
        return await self.predict(np.array((await request.json())["image"], np.uint8))


if __name__ == "__main__":
    ray.init(include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Peer.bind())
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    ray.shutdown()
