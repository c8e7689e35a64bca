"""Measures: pure functions of tensors, which training, evaluation and retrieval share. Nothing here reads files."""
