"""The second showcase: SmolLM2-135M-Instruct learns to follow instructions that a program can check."""
