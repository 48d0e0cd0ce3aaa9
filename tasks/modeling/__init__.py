"""Policies as transformers models: loading, and log-probabilities by the training forward. Shared by the rooms."""
