"""The command line: what people call, and what processes and pods run."""
