"""Sample responses from a policy: engines behind one small protocol, published in shards."""
