"""Learning: one update on one page (`algorithm`), the program that runs it (`trainer`), and what they are made of."""
