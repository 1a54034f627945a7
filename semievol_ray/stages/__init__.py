"""The algorithm, one file a step."""
