"""A run's copy in an object store: each stage is pushed when it is published, and a fresh machine pulls it back."""
