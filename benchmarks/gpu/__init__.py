"""Training on one GPU: does it work, is it exact, how fast is it, and where does the memory go?"""
