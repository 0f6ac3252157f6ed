"""The model server: KServe's `ModelServer` with our model, its batching, and clients for it."""

import sys

from mlpipeline import loading


def _import_kserve() -> None:
    """Import KServe with an empty command line.

    `kserve.model_server` parses `sys.argv` at its top level, in whatever process imports it, and
    `kserve/__init__.py` imports it, so no part of KServe can be had without. Ours is read, too:
    `--config FILE` passes for an abbreviation of its `--configure_logging`, `--workers many` ends
    the process.
    https://github.com/kserve/kserve/blob/v0.21.0/python/kserve/kserve/model_server.py#L225

    KServe imports the client of Kubernetes, and that a checker of manifests, if there is one, as in
    an environment for development: a second and more for nothing.

    It has to be done before any other import of KServe, and the modules of this package derive
    their classes from KServe's, so it is done here: a package comes before its modules.
    """
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        with loading.without("kubernetes_validate"):
            import kserve  # noqa: F401
    finally:
        sys.argv = arguments


_import_kserve()
