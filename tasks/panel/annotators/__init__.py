"""Annotators: each module with a settings class is one kind, found by registry.py."""
