"""Research: methods on worlds whose optimum is known, and estimators against exact tables and other libraries."""
