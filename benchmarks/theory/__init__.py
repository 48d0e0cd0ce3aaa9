"""Do the objectives solve, in tables with a known optimum, what they say they solve?"""
