"""Votes of a panel of annotators, and the empirical preferences that they amount to."""
