"""PPO: one update (`algorithm`), the compiled program (`trainer`), and their parts."""
