"""KServe: a custom predictor. `python kserve_model.py --http_port PORT --grpc_port PORT`."""

from __future__ import annotations

import argparse
from typing import Any

import kserve
import numpy as np
from engine import Classifier


class Peer(kserve.Model):
    """What KServe calls for each request."""

    def __init__(self, name: str) -> None:
        """Load the model."""
        super().__init__(name)
        self.classify = Classifier()
        self.ready = True

    def predict(self, payload: dict[str, Any], headers: Any = None) -> dict[str, Any]:
        """Compute."""
        return {"predictions": self.classify(np.array(payload["instances"], np.uint8)).tolist()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser])
    parser.parse_args()
    kserve.ModelServer().start([Peer("peer")])
