"""People as annotators: a batch is exported, people vote on it in their own time, and their votes are collected."""
