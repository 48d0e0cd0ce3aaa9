"""Engines on a Ray cluster, and what dealing shards to many workers costs the driver."""
