"""Take out of a model what it needs least: single weights, heads and neurons, tokens."""
