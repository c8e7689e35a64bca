"""Training: objectives now, the loop to come. Nothing outside this folder imports it."""
