"""What a user's own project brings: a data set and a model, each one function."""
