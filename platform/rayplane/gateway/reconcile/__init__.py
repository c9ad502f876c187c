"""One module per noun makes what is wanted so."""
