"""Running a TensorRT engine over arrays in host or GPU memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from engines.cuda_driver import Buffer, Gpu
from engines.tensorrt.arrays import GpuArray, gpu_array, on_gpu
from engines.tensorrt.flavour import load_tensorrt
from engines.tensorrt.messages import message_log
from engines.tensorrt.record import ENGINE_FILE, EngineRecord
from qwen3vl.errors import ArtifactError

KEPT_MESSAGES = 8


class EngineRunner:
    """A loaded engine. Buffers are kept and grow with the calls; calls of several threads wait for each other.

    Args:
        folder: of the engine and its record.

    Raises:
        ArtifactError: no GPU, one that the engine was not built for, another TensorRT version, or a broken engine.
    """

    def __init__(self, folder: Path):
        self.record = EngineRecord.load(folder)
        self._trt = load_tensorrt(self.record.flavour)
        require_version(self.record, self._trt.__version__)
        self._gpu = Gpu()
        require_capability(self.record, self._gpu.compute_capability)
        self._log = message_log(self._trt, keep=KEPT_MESSAGES)
        self._engine, self._runtime = load_engine(self._trt, self.record, folder / ENGINE_FILE, self._log)
        self._stream = self._gpu.create_stream()
        self._contexts: dict[int, object] = {}
        self._buffers: dict[str, Buffer] = {}
        self._running = threading.Lock()

    def run(self, inputs: Mapping[str, object], profile: int) -> dict[str, np.ndarray]:
        """Run and fetch the outputs.

        Args:
            inputs: by name, numpy arrays or arrays on the GPU (DLPack or `__cuda_array_interface__`).
            profile: the index of a profile that takes their shapes.

        Returns:
            The outputs by name, new arrays.

        Raises:
            ValueError: an input's element type or shape is wrong.
            ArtifactError: TensorRT refuses the call.
        """
        with self._running:
            results = {}
            for name, array in self._enqueue(inputs, profile).items():
                results[name] = np.empty(array.shape, array.dtype)
                self._gpu.download(results[name], array.address, self._stream)
            self._gpu.synchronise(self._stream)
            return results

    def run_on_gpu(self, inputs: Mapping[str, object], profile: int) -> dict[str, GpuArray]:
        """As `run`, but the outputs stay on the GPU, done, in buffers that the next call overwrites."""
        with self._running:
            outputs = self._enqueue(inputs, profile)
            self._gpu.synchronise(self._stream)
            return outputs

    def _enqueue(self, inputs: Mapping[str, object], profile: int) -> dict[str, GpuArray]:
        context = self._context(profile)
        placed = {name: self._place(name, array) for name, array in inputs.items()}
        for name, array in placed.items():
            if not (context.set_input_shape(name, array.shape) and context.set_tensor_address(name, array.address)):
                raise ArtifactError(self._refusal(f"does not take {name} of shape {list(array.shape)} in profile "
                                                  f"{profile}"))
        if missing := context.infer_shapes():
            raise ValueError(f"inputs {', '.join(missing)} are missing")
        outputs = {}
        for name, info in self.record.outputs.items():
            shape, dtype = tuple(context.get_tensor_shape(name)), np.dtype(info.dtype)
            size = GpuArray(0, shape, dtype).nbytes
            outputs[name] = GpuArray(self._buffer(name).reserve(max(1, size)), shape, dtype, self)
            context.set_tensor_address(name, outputs[name].address)
        size = context.update_device_memory_size_for_shapes()
        context.set_device_memory(self._buffer("activations").reserve(max(1, size)), size)
        if not context.execute_async_v3(self._stream):
            raise ArtifactError(self._refusal("failed to run"))
        return outputs

    def _place(self, name: str, array: object) -> GpuArray:
        """The input on the GPU, copied there if it is not."""
        info = self.record.inputs[name]
        if not on_gpu(array):
            host = np.ascontiguousarray(array)
            require_input(name, info.dtype, info.shape, host.dtype, host.shape)
            placed = GpuArray(self._buffer(name).reserve(max(1, host.nbytes)), host.shape, host.dtype, host)
            self._gpu.upload(placed.address, host, self._stream)
            return placed
        placed = gpu_array(array, self._stream)
        require_input(name, info.dtype, info.shape, placed.dtype, placed.shape)
        return placed

    def _context(self, profile: int):
        """The execution context of a profile; its activations are in memory that all of them share."""
        if profile not in self._contexts:
            context = self._engine.create_execution_context(
                self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if context is None or not context.set_optimization_profile_async(profile, self._stream):
                raise ArtifactError(self._refusal(f"cannot prepare profile {profile}"))
            self._gpu.synchronise(self._stream)
            self._contexts[profile] = context
        return self._contexts[profile]

    def _buffer(self, name: str) -> Buffer:
        return self._buffers.setdefault(name, Buffer(self._gpu))

    def _refusal(self, what: str) -> str:
        return _refusal(self.record, what, self._log)


def load_engine(trt, record: EngineRecord, path: Path, log):
    """Deserialise an engine file. Returns the engine and its runtime, which has to live as long.

    Raises:
        ArtifactError: the file is missing, or TensorRT refuses it.
    """
    runtime = trt.Runtime(log)
    try:
        engine = runtime.deserialize_cuda_engine(path.read_bytes())
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist: run `qwen3vl build` on its build folder") from None
    if engine is None:
        raise ArtifactError(f"{_refusal(record, f'cannot load {path}', log)}; run `qwen3vl build` again")
    return engine, runtime


def _refusal(record: EngineRecord, what: str, log) -> str:
    details = f": {'; '.join(log.errors)}" if log.errors else ""
    return f"{record.flavour} {record.version} {what}{details}"


def require_version(record: EngineRecord, version: str) -> None:
    """Raise an ArtifactError unless the engine was built by this version of TensorRT."""
    if version != record.version:
        raise ArtifactError(f"the vision engine was built by {record.flavour} {record.version}, but {version} is "
                            f"installed, and no version reads another's engines: install {record.version}, or run "
                            "`qwen3vl build --target tensorrt` again")


def require_capability(record: EngineRecord, capability: str) -> None:
    """Raise an ArtifactError unless the engine was built for this GPU."""
    if capability not in record.compute_capabilities:
        again = f"with --compute-capability {capability}" if record.flavour == "tensorrt_rtx" else "on this machine"
        raise ArtifactError(f"the vision engine was built for compute capability "
                            f"{', '.join(record.compute_capabilities)}, but this GPU's is {capability}: run `qwen3vl "
                            f"build --target tensorrt` again {again}")


def require_input(name: str, dtype: str, shape: tuple[int, ...], found_dtype: np.dtype,
                  found_shape: tuple[int, ...]) -> None:
    """Raise a ValueError unless an input has the element type and, where it is not -1, the shape of the engine's."""
    fits = len(shape) == len(found_shape) and all(size in (-1, found) for size, found in zip(shape, found_shape,
                                                                                           strict=True))
    if found_dtype != np.dtype(dtype) or not fits:
        raise ValueError(f"{name} is {found_dtype} {list(found_shape)}, expected {dtype} {list(shape)}")
