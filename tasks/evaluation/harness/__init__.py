"""EleutherAI's lm-evaluation-harness (lm-eval): benchmark tasks on a policy, results in lm-eval's own JSON form."""
