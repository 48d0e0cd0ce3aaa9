"""What a round trains on: its own preferences, mixed with those of earlier rounds and of an offline set."""
