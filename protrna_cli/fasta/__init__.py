"""From bytes to records: input files, FASTA records, the census of an input, and BED regions."""
