"""Data for training, tests and demonstrations."""
