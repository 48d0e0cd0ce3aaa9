"""Judge calls saved by asking only where cheap annotators are unsure."""
