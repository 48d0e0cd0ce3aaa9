"""The report of a run: one HTML file and its figures as SVG and PNG, made from the run folder's files alone."""
