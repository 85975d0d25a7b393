"""Benchmarks. They print what they measure and assert nothing; pytest does not collect them."""
