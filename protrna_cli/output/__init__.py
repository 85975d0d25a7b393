"""Output files: formats, names of companion files, reading, conversion and merging."""
