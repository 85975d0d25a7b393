"""One run, from a counted input to finished outputs, and the checks and estimates before and after it."""
