// Types of elements in the kernel libraries' C interfaces.
#pragma once

enum Qwen3vlType { QWEN3VL_FLOAT32 = 0, QWEN3VL_FLOAT16 = 1, QWEN3VL_BFLOAT16 = 2 };
