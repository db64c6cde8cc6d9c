"""Hand a trained policy over: StableHLO, ONNX, a description, and the task that MuJoCo's C engine can play."""
