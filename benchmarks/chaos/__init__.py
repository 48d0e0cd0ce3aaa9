"""Kills, corruption and the cost of durability. See __main__.py."""
