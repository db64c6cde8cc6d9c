"""Train generative robot policies by on-policy RL with exact likelihood ratios."""
