"""From a panel's votes to empirical preferences between responses."""
