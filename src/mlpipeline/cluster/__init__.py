"""What the workflow's own pods do: plan, hand training and serving to their operators, record.

The work itself is in `mlpipeline.steps`; here is only what a cluster needs beside it. Nothing here
imports TensorFlow, so that these pods are small and start at once.
"""
