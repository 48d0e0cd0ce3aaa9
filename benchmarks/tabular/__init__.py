"""Alignment in tables: a few responses a prompt, exact optima, policies that are a row of logits."""
