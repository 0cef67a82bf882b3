"""The decoder on a CPU at the shapes of Qwen3-VL-30B-A3B, beside `transformers` and the memory's bandwidth."""
