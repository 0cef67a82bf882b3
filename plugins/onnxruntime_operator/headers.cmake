# Sets ONNXRUNTIME_INCLUDE to the folder of ONNX Runtime's C interface below ONNXRUNTIME_ROOT, or ends with a message,
# the last sentence of which is WITHOUT_ONNXRUNTIME: what can be built without it.
find_path(ONNXRUNTIME_INCLUDE onnxruntime_c_api.h NO_DEFAULT_PATH PATHS "${ONNXRUNTIME_ROOT}"
          PATH_SUFFIXES include include/onnxruntime include/onnxruntime/core/session)
if(NOT ONNXRUNTIME_INCLUDE)
  message(FATAL_ERROR
    "ONNXRUNTIME_ROOT is '${ONNXRUNTIME_ROOT}': no include/onnxruntime_c_api.h in it. Unpack ONNX Runtime's release "
    "for Linux (github.com/microsoft/onnxruntime, 1.18 or newer; no Python wheel has the headers) and pass "
    "-DONNXRUNTIME_ROOT=<its folder>. The library runs in newer releases too. ${WITHOUT_ONNXRUNTIME}")
endif()
