"""A small world with a known truth: prompts, replies of mixed quality, and the utility that the demo is judged by."""
