"""Network architectures, one file each, built from any `ConvBuilder`."""

from acnet_pl.backbones.alexnet import AlexNet
from acnet_pl.backbones.cifar_quick import CifarQuick
from acnet_pl.backbones.densenet import DenseNet
from acnet_pl.backbones.densenet_cifar import DenseNetCifar
from acnet_pl.backbones.resnet import ResNet
from acnet_pl.backbones.resnet_cifar import ResNetCifar
from acnet_pl.backbones.timm_zoo import Timm
from acnet_pl.backbones.torchvision_zoo import Torchvision
from acnet_pl.backbones.vgg import VGG16
from acnet_pl.backbones.wide_resnet import WideResNet

__all__ = [
    "VGG16",
    "AlexNet",
    "CifarQuick",
    "DenseNet",
    "DenseNetCifar",
    "ResNet",
    "ResNetCifar",
    "Timm",
    "Torchvision",
    "WideResNet",
]
