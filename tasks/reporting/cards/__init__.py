"""Cards: what a published policy or preference set says about itself, made from the run folder's files alone."""
