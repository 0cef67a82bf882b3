"""Operators of the vision encoder with CUDA kernels for Hopper GPUs, and a library of them for ONNX Runtime."""
