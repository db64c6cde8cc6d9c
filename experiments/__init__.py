"""Command lines and presets."""
