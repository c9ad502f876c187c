"""One module per noun: check, write what is wanted, answer from the store."""
