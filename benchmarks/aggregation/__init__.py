"""Aggregation against exact tables, other libraries, people's votes and the clock: python -m benchmarks.aggregation."""
