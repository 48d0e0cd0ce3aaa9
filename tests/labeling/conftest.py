"""Fixtures of the panel's tests: a hand-written generate stage."""

from tests.panel.conftest import importable_voters, make_world, server, world

__all__ = ["importable_voters", "make_world", "server", "world"]
