"""People as annotators, asynchronously: a batch is exported, they vote in their own time, votes are collected."""
