"""Engines on a Ray cluster, used by the generate stage as workers that take whole shards. Ray is imported lazily."""
