"""What goes through the model server, as arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]
"""Raw pixels, unscaled, 0..255, of shape (N, H, W) or (N, H, W, C)."""

Probabilities = npt.NDArray[np.float32]
"""Shape (N, classes): a row an image, in the order of the model's classes; a row sums to 1."""
