"""Decoding: one search for torch and onnxruntime, word error rates with intervals, the evaluate stage."""
