"""The table of backbones. To add one, add a row to `BACKBONES`. The row of "timm:NAME" is made on request.

No other module imports torchvision.

A row divides a torchvision network into named blocks: all its layers in order, without the last pooling and the
classifier. Each block is a layer group, so that training can freeze and unfreeze a network block by block. The hidden
layers of a network's own classifier can be kept as one more block.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from xrayfast.errors import ConfigError, did_you_mean
from xrayfast.learning.deferred_imports import deferring
from xrayfast.learning.device import on_meta_device
from xrayfast.learning.model.pretrained.timm_networks import TimmBackbone, build_timm, inspect_timm, is_timm

# A torchvision operation for detection imports torch's compiler to ask whether it can be compiled. That import takes as
# long as the import of torch.
with deferring({"torch._dynamo.utils": ["is_compile_supported"]}):
    from torchvision import models
    from torchvision.ops import StochasticDepth as StochasticDepth
    from torchvision.ops.misc import SqueezeExcitation as SqueezeExcitation

Blocks = OrderedDict[str, nn.Module]


@dataclass(frozen=True)
class Backbone:
    """A row of the table.

    Attributes:
        name: the `arch` that selects the backbone; torchvision's name.
        build: constructor of the whole network, randomly initialized with `weights=None`.
        weights: torchvision's ImageNet weights; None for a network of timm, whose `build` loads its own.
        blocks: function that divides the whole network into the backbone's named blocks.
        pooled_side: output size of the network's own adaptive average pooling.
        classifier: function that returns the pooling and the hidden layers of the network's own classifier, with their
            activations and the dropout between them; None if the classifier has no hidden layers.
        features: number of channels of the last feature map; None if the backbone has to be run to find it.
    """

    name: str
    build: Callable[..., nn.Module]
    weights: Any
    blocks: Callable[[Any], Blocks]
    pooled_side: int = 1
    classifier: Callable[[Any], nn.Sequential] | None = None
    features: int | None = None

    def divide(self, net: Any, *, with_classifier: bool = False) -> Blocks:
        """Divide a whole network into its named blocks; with `with_classifier` the last one is "classifier"."""
        blocks = self.blocks(net)
        if with_classifier:
            if self.classifier is None:
                having = ", ".join(row.name for row in BACKBONES.values() if row.classifier)
                raise ConfigError(
                    f"head is classifier, but the classifier of {self.name} has no hidden layers to keep. Use --head "
                    f"linear or mlp, or a network whose classifier has hidden layers: {having}."
                )
            blocks["classifier"] = self.classifier(net)
        return blocks


def _resnet(net: Any) -> Blocks:
    stem = nn.Sequential(OrderedDict(conv1=net.conv1, bn1=net.bn1, relu=net.relu, maxpool=net.maxpool))
    return OrderedDict(stem=stem, layer1=net.layer1, layer2=net.layer2, layer3=net.layer3, layer4=net.layer4)


def _vgg(net: Any) -> Blocks:
    """Divide a VGG: each block ends with its max pooling. The adaptive pooling belongs to the classifier."""
    ends = [i + 1 for i, layer in enumerate(net.features) if isinstance(layer, nn.MaxPool2d)]
    starts = [0, *ends[:-1]]
    return OrderedDict((f"block{n}", net.features[a:b]) for n, (a, b) in enumerate(zip(starts, ends, strict=True), 1))


def _vgg_classifier(net: Any) -> nn.Sequential:
    """Return pooling and hidden layers without the last dropout, which the head has: it acts on frozen features too."""
    fc1, relu1, dropout, fc2, relu2, _, _ = net.classifier
    layers = {"pool": net.avgpool, "flatten": nn.Flatten(), "fc1": fc1, "relu1": relu1, "dropout": dropout}
    return nn.Sequential(OrderedDict(layers, fc2=fc2, relu2=relu2))


def _densenet(net: Any) -> Blocks:
    """Divide a DenseNet: a transition belongs to the dense block before it.

    The last ReLU is added as a module, since torchvision's `forward` calls it as a function.
    """
    layers = dict(net.features.named_children())

    def block(*names: str, **more: nn.Module) -> nn.Sequential:
        return nn.Sequential(OrderedDict({name: layers[name] for name in names} | more))

    return OrderedDict(
        stem=block("conv0", "norm0", "relu0", "pool0"),
        dense1=block("denseblock1", "transition1"),
        dense2=block("denseblock2", "transition2"),
        dense3=block("denseblock3", "transition3"),
        dense4=block("denseblock4", "norm5", relu5=nn.ReLU(inplace=True)),
    )


def _stages_from(*starts: int) -> Callable[[Any], Blocks]:
    """Return a function that divides `net.features` into a stem and stages that begin at the given indices."""

    def divide(net: Any) -> Blocks:
        edges = [0, *starts, len(net.features)]
        names = ["stem", *(f"stage{n}" for n in range(1, len(edges) - 1))]
        return OrderedDict((name, net.features[a:b]) for name, a, b in zip(names, edges[:-1], edges[1:], strict=True))

    return divide


BACKBONES: dict[str, Backbone] = {
    row.name: row
    for row in (
        Backbone("resnet18", models.resnet18, models.ResNet18_Weights.IMAGENET1K_V1, _resnet, features=512),
        Backbone("resnet34", models.resnet34, models.ResNet34_Weights.IMAGENET1K_V1, _resnet, features=512),
        Backbone("resnet50", models.resnet50, models.ResNet50_Weights.IMAGENET1K_V2, _resnet, features=2048),
        Backbone("vgg16", models.vgg16, models.VGG16_Weights.IMAGENET1K_V1, _vgg, 7, _vgg_classifier, 512),
        Backbone("vgg16_bn", models.vgg16_bn, models.VGG16_BN_Weights.IMAGENET1K_V1, _vgg, 7, _vgg_classifier, 512),
        Backbone("densenet121", models.densenet121, models.DenseNet121_Weights.IMAGENET1K_V1, _densenet, features=1024),
        # A stage begins where the resolution halves; the last 1x1 convolution goes with the last stage.
        Backbone(
            "mobilenet_v2",
            models.mobilenet_v2,
            models.MobileNet_V2_Weights.IMAGENET1K_V1,
            _stages_from(2, 4, 7, 14),
            features=1280,
        ),
        Backbone(
            "efficientnet_b0",
            models.efficientnet_b0,
            models.EfficientNet_B0_Weights.IMAGENET1K_V1,
            _stages_from(1, 2, 3, 4, 5, 6, 7),
            features=1280,
        ),
        # A downsampling layer goes with the stage after it.
        Backbone(
            "convnext_tiny",
            models.convnext_tiny,
            models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1,
            _stages_from(1, 2, 4, 6),
            features=768,
        ),
    )
}


def find_backbone(name: str, size: int = 224) -> Backbone:
    """Return the row with that name; for a network of timm, make one."""
    if is_timm(name):
        form = inspect_timm(name, size)
        return Backbone(
            name,
            lambda weights: build_timm(name, size, pretrained=weights is not None),
            None,
            lambda net: OrderedDict(timm=TimmBackbone(net, form)),
        )
    try:
        return BACKBONES[name]
    except KeyError:
        hint = did_you_mean(name, BACKBONES)
        raise ConfigError(f"arch is '{name}'.{hint} Expected one of: {', '.join(BACKBONES)}; or timm:NAME.") from None


def describe_backbones() -> list[dict[str, Any]]:
    """Describe each backbone: arch, block names, number of parameters, number of layer groups (the blocks and the
    head), and number of parameters in the hidden layers of its own classifier (None if it has none).
    """
    rows = []
    for row in BACKBONES.values():
        with on_meta_device():
            blocks = row.divide(row.build(weights=None), with_classifier=row.classifier is not None)
        classifier = blocks.pop("classifier", None)
        rows.append(
            {
                "arch": row.name,
                "blocks": list(blocks),
                "parameters": sum(map(_count_parameters, blocks.values())),
                "groups": len(blocks) + 1,
                "classifier_parameters": None if classifier is None else _count_parameters(classifier),
            }
        )
    return rows


def _count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
