"""Measurements that print a table of the README; none is a test."""
