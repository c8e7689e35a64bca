"""Evaluation: how good codes and reconstructions are."""
