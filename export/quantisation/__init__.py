"""Block-wise quantisation of weights, without calibration data: schemes, the numerics, and streaming."""
