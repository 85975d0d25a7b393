"""Helpers of the tests: checkpoints, a float64 reference, servers, and programs that try to break runs."""
