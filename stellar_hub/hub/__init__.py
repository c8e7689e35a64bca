"""The Hugging Face Hub: fetching published files, and pushing models."""
