"""Speed, measured and never asserted: not collected by pytest."""
