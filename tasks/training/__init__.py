"""Objectives, log-probability batches and trainers."""
