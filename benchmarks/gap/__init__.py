"""How far a round of iREPO ends from the optimum, and a bound, by number of responses, annotators and coverage."""
