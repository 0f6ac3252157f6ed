"""Train as one worker, as TF_CONFIG says, and write the weights that this very worker ends with.

    python weights_of_worker.py CONFIG WEIGHTS.npz CANDIDATE=DATASET [CANDIDATE=DATASET ...]

The step itself publishes the chief's alone. Several candidates are trained one after the other.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlpipeline.learning.training.cluster_spec import ClusterSpec, from_environment
from mlpipeline.learning.training.run import Job
from mlpipeline.learning.training.synchronous import Trainer
from mlpipeline.plan import config


def main() -> None:
    settings = config.load(Path(sys.argv[1]))
    cluster = from_environment(os.environ)
    assert isinstance(cluster, ClusterSpec)
    trained: dict[str, NDArray[np.float32]] = {}
    for argument in sys.argv[3:]:
        name, _, dataset = argument.partition("=")
        with tempfile.TemporaryDirectory() as work:
            job = Job(
                settings.candidates[name],
                settings.training,
                settings.seed,
                dataset=Path(dataset),
                work=Path(work),
            )
            trainer = Trainer.connect(job, cluster)
            weights = trainer.run().exportable.model.get_weights()
            trainer.finish()  # nobody leaves before the other is done
        trained[name] = np.concatenate([weight.ravel() for weight in weights])
    np.savez(sys.argv[2], allow_pickle=False, **trained)
    os._exit(0)


main()
