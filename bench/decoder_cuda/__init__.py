"""The decoder's CUDA kernels, checked and timed at the shapes of Qwen3-VL-30B-A3B."""
