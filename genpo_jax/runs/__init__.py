"""Keeping a run: its folder, metrics, pictures, checkpoints, and the loop that fills them."""
