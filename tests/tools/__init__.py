"""Test helpers: checkpoints, a float64 reference, a server, and programs that try to break runs."""
