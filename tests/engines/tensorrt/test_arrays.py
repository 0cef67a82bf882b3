"""Views of other libraries' arrays: DLPack capsules as numpy and torch make them, and the CUDA array interface."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from engines.tensorrt.arrays import GpuArray, from_dlpack, gpu_array, on_gpu


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.int64, np.float16, np.float32])
def test_a_dlpack_capsule_is_viewed_in_place(dtype: type):
    array = np.arange(2 * 3 * 4).astype(dtype).reshape(2, 3, 4)
    view = from_dlpack(array.__dlpack__())
    assert (view.address, view.shape, view.dtype) == (array.ctypes.data, (2, 3, 4), array.dtype)
    assert view.nbytes == array.nbytes


def test_a_part_of_an_array_starts_where_it_starts():
    tensor = torch.arange(24, dtype=torch.float32).reshape(6, 4)[2:]
    view = from_dlpack(tensor.__dlpack__())
    assert (view.address, view.shape) == (tensor.data_ptr(), (4, 4))


def test_the_capsule_keeps_the_memory_alive():
    view = from_dlpack(torch.full((1000,), 7.0).__dlpack__())
    others = [torch.zeros(1000) for _ in range(10)]
    values = np.ctypeslib.as_array((np.ctypeslib.ctypes.c_float * 1000).from_address(view.address))
    assert (values == 7).all() and len(others) == 10


def test_sizes_of_one_may_have_any_stride():
    tensor = torch.zeros(5, 7)[:1]
    assert from_dlpack(tensor.as_strided((1, 7), (999, 1)).__dlpack__()).shape == (1, 7)


def test_what_is_not_contiguous_is_refused():
    with pytest.raises(ValueError, match=r"shape \[4, 3\] has strides \[1, 4\], expected \[3, 1\]"):
        from_dlpack(np.zeros((3, 4), np.float32).T.__dlpack__())


def test_bfloat16_is_refused():
    with pytest.raises(ValueError, match="code 4, 16 bits"):
        from_dlpack(torch.zeros(3, dtype=torch.bfloat16).__dlpack__())


def interface(**values) -> SimpleNamespace:
    return SimpleNamespace(__cuda_array_interface__={"version": 2, "shape": (2, 3), "typestr": "<i4",
                                                     "data": (4096, False), **values})


def test_the_cuda_array_interface_is_read():
    array = interface(strides=(12, 4))
    view = gpu_array(array, stream=0)
    assert view == GpuArray(4096, (2, 3), np.dtype(np.int32), array)
    with pytest.raises(ValueError, match=r"has strides \[1, 2\]"):
        gpu_array(interface(strides=(4, 8)), stream=0)


def test_our_own_arrays_say_the_same_of_themselves():
    ours = GpuArray(512, (4, 5), np.dtype(np.float32))
    assert gpu_array(ours, stream=0) is ours
    other = SimpleNamespace(__cuda_array_interface__=ours.__cuda_array_interface__)
    assert gpu_array(other, stream=0) == GpuArray(512, (4, 5), np.dtype(np.float32), other)


def test_host_arrays_are_told_from_those_on_the_gpu():
    assert not on_gpu(np.zeros(3)) and not on_gpu(torch.zeros(3))
    assert on_gpu(interface()) and on_gpu(GpuArray(0, (1,), np.dtype(np.uint8)))
    assert not on_gpu([1, 2, 3])
