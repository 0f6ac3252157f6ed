"""Training on several workers: two strategies, their checkpoints, and what fails on the way."""
