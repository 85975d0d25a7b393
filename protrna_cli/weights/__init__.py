"""Checkpoints: find them by name or path, and download and verify the published one."""
