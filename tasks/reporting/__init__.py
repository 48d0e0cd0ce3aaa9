"""What a run shows people: the report, model and data set cards, trackers, comparisons of methods."""
