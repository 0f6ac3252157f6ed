"""The model server: KServe's `ModelServer` with our model, its batching, and clients for it."""

import sys

# KServe reads its settings from the command line of whatever process imports it, ours included:
# give it an empty one. This is the first import of it, as a package comes before its modules.
_arguments, sys.argv = sys.argv, sys.argv[:1]
try:
    import kserve  # noqa: F401
finally:
    sys.argv = _arguments
