"""Pure values and arithmetic: rules, shards, chunks of records, and pieces of records."""
