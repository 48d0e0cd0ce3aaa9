"""Model and dataset cards of a run's policies and preference sets, made from the run folder's files alone."""
