"""Figures of the pipeline beside named baselines, each by a program of its own."""
