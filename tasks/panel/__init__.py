"""A panel of annotators votes on responses: questions, annotators, journals, people."""
