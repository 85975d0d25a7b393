"""One run, from a counted input to finished outputs, and what can be asked before and after it."""
