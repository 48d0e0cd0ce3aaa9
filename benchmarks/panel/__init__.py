"""A panel of judges behind an endpoint that fails, lies and dawdles."""
