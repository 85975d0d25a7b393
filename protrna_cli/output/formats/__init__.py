"""One module a format; `table` lists them all."""
