"""Export a trained policy as ONNX and StableHLO with a description, and play the exported policy."""
