"""Objectives, one file a method: its settings, what it needs, its loss, the equation and the source. registry.py finds
them; base.py, batch.py and needs.py are what they are made of."""
