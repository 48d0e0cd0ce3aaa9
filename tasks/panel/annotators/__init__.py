"""Annotators: one file a kind. Add one by a settings class, a file here and a case in registry.py."""
