"""Input files: FASTA records, the census of an input, and BED regions."""
