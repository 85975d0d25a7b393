"""One module per format; `table` lists them."""
