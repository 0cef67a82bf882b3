"""Parse an ONNX file with TensorRT-RTX and print, as JSON, what became of it. A process of its own for each case.

    python -m tests.plugins.parse_with_tensorrt_rtx FILE [--python-plugin] [--build] [--aliasing]

`--python-plugin` registers a plugin under the name of DeepstackAdd first; a native one comes by LD_PRELOAD.
"""

from __future__ import annotations

import argparse
import json

import tensorrt_rtx as trt

from plugins.deepstack_add.operator import ATTRIBUTES, NAME, PLUGIN_NAMESPACE, PLUGIN_VERSION


class Plugin(trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuild, trt.IPluginV3OneRuntime):
    """What the parser needs of a plugin to add a layer of it."""

    def __init__(self) -> None:
        for base in Plugin.__bases__:
            base.__init__(self)
        self.plugin_name, self.plugin_version, self.plugin_namespace = NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE
        self.num_outputs = 1

    def get_capability_interface(self, kind):
        return self

    def clone(self):
        return Plugin()

    def get_output_data_types(self, input_types):
        return [input_types[0]]

    def get_output_shapes(self, inputs, shape_inputs, builder):
        return [trt.DimsExprs(inputs[0])]


class Creator(trt.IPluginCreatorV3One):
    """Keeps the fields that the parser creates the plugin with."""

    def __init__(self) -> None:
        trt.IPluginCreatorV3One.__init__(self)
        self.name, self.plugin_version, self.plugin_namespace = NAME, PLUGIN_VERSION, PLUGIN_NAMESPACE
        self.field_names = trt.PluginFieldCollection([trt.PluginField(name, b"", trt.PluginFieldType.INT32)
                                                      for name in ATTRIBUTES])
        self.fields: dict[str, int] = {}

    def create_plugin(self, name, collection, phase):
        self.fields = {field.name: int(field.data[0]) for field in collection}
        return Plugin()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    for option in ("--python-plugin", "--build", "--aliasing"):
        parser.add_argument(option, action="store_true")
    args = parser.parse_args()
    creator = Creator()
    if args.python_plugin:
        trt.get_plugin_registry().register_creator(creator, PLUGIN_NAMESPACE)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    onnx_parser = trt.OnnxParser(network, builder.logger)
    parsed = onnx_parser.parse_from_file(args.file)
    result = {"parsed": parsed, "fields": creator.fields,
              "errors": [onnx_parser.get_error(i).desc() for i in range(onnx_parser.num_errors)],
              "layers": [network.get_layer(i).type.name for i in range(network.num_layers)]}
    if args.build:
        result["engine_bytes"] = build(builder, network, aliasing=args.aliasing)
    print(json.dumps(result))


def build(builder: trt.Builder, network: trt.INetworkDefinition, *, aliasing: bool) -> int:
    """Bytes of the engine for one compute capability, 0 where the build fails."""
    config = builder.create_builder_config()
    config.num_compute_capabilities = 1
    config.set_compute_capability(trt.ComputeCapability.SM120, 0)
    config.set_preview_feature(trt.PreviewFeature.ALIASED_PLUGIN_IO_10_03, aliasing)
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        tensor = network.get_input(i)
        shapes = [[size if size >= 0 else dynamic for size in tensor.shape] for dynamic in (1, 4, 64)]
        profile.set_shape(tensor.name, *shapes)
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return 0 if engine is None else engine.nbytes


if __name__ == "__main__":
    main()
