"""Imitation learning: pretraining on demonstrations, fidelity of samplers, and fine-tuning."""
