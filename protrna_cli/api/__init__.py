"""The Python functions: those behind the commands, and those for notebooks and programs."""
