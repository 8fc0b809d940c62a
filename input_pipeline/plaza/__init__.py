"""The plaza, an embedded corpus: a small drawn social feed with a simulated audience, in raw formats."""
