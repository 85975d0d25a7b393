"""Pure values and arithmetic: rules, shards, chunks of records, and the pieces in which records run."""
