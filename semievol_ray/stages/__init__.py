"""The algorithm: a file for each step, which holds its `STAGE`, and what several of them share."""
