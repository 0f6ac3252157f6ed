"""Data sets, models and training: what the steps are made of, with no knowledge of the pipeline."""
