"""What a round trains on: its own pairs, mixed with pairs of earlier rounds and of an offline set."""
