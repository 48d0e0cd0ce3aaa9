"""Estimators against exact tables, other libraries, human votes and the clock.

python -m benchmarks.aggregation
"""
