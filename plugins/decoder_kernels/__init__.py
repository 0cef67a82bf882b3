"""The decoder's kernels for NVIDIA GPUs: one layer of a decode step in six launches."""
