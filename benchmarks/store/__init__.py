"""Going on with many shards on a slow store."""
