"""Running the decoder's engine on `tensorrt_llm.bindings.executor`, TensorRT-LLM's C++ runtime with in-flight batching.

Its Python bindings take tensors as torch tensors (cpp/tensorrt_llm/nanobind/common/customCasters.h). torch comes with
TensorRT-LLM, so both are imported here, inside functions, and nowhere else on the serving side.
"""
