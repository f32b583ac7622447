"""Codebook indexes (CI) of a corpus: compute, store, read, show to lhotse."""
