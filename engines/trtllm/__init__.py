"""The decoder on TensorRT-LLM: building its engine and running it."""
