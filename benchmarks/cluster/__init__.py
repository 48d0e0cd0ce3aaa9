"""What dealing shards to many workers costs the driver."""
