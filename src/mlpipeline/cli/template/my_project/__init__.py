"""Data and model of my-project."""
