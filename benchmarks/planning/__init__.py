"""The Rust core against pyarrow, polars and plain Python."""
