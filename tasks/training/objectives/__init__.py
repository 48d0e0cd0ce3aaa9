"""Objectives: a module a family of pure functions, their settings, what they need, and the registry that joins them."""
