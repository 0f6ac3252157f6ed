"""Data sets: where they come from, how they are split, and the files they are kept in."""
