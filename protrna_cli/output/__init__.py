"""Files of embeddings: every format, every name beside an output, and outputs made of other outputs."""
