"""How much of a judge's time is hidden behind sampling."""
