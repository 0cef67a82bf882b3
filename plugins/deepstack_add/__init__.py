"""DeepstackAdd: the one operator through which visual rows enter the decoder, in every engine.

A visual token is `1 + D` rows of the decoder's hidden size, next to each other in one table; its token id is
`vocab_size + (1 + D) * i`, so the id itself says where its rows are. `operator.py` defines the operator,
`onnx_function.py` is its form in ONNX, `torch_op.py` in torch, `csrc/` in CUDA and as a TensorRT plugin.
"""
