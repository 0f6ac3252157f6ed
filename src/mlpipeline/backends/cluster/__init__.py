"""The Kubernetes backend: what the workflow's own pods do beside the steps.

They plan, hand training and serving to their operators, and record what happened. Nothing here
imports TensorFlow, so that these pods are small and start at once.
"""
