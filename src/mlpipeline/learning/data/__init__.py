"""Data sets: where they come from, how they are split, and the files they are kept in.

A data set of your own is a function without arguments that returns a `Dataset` of two `Split`s.
Import both from here, which needs no TensorFlow:

    from mlpipeline.learning.data import Dataset, Split
"""

from mlpipeline.learning.data.images import Dataset, Split

__all__ = ["Dataset", "Split"]
