"""LitServe: an API with batches. `python litserve_server.py PORT`."""

from __future__ import annotations

import sys
from typing import Any

import litserve
import numpy as np
from engine import MOST, Classifier


class Peer(litserve.LitAPI):
    """What a request goes through."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.classify = Classifier()

    def decode_request(self, request) -> Any:  # LitServe reads a hint as a schema
        """Return one image."""
        return np.array(request["image"], np.uint8)

    def batch(self, inputs: list[Any]) -> Any:
        """Put images together."""
        return np.stack(inputs)

    def predict(self, x: Any) -> Any:
        """Compute."""
        return self.classify(x)

    def unbatch(self, output: Any) -> list[Any]:
        """Take the answers apart."""
        return list(output)

    def encode_response(self, output: Any) -> dict[str, Any]:
        """Return what is sent."""
        return {"probabilities": output.tolist()}


if __name__ == "__main__":
    api = Peer(max_batch_size=MOST, batch_timeout=0.001)
    litserve.LitServer(api, accelerator="cpu").run(
        host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning"
    )
