"""Policies from demonstrations: pretraining, and another solver for a flow that has been trained."""
