"""Watches a training: records gradients, updates and learning rates, and says what is wrong."""
