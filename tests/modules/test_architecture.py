import json
import sys
from functools import partial

import pytest
import torch
from torch import nn

from acnet_pl.backbones import ResNetCifar, Torchvision
from acnet_pl.modules.architecture import build_conv, build_network, describe
from acnet_pl.nn import ACBConv, PlainConv


@pytest.mark.parametrize(
    "conv", [PlainConv(), ACBConv(), ACBConv(position="border", gamma_init=0.5, asymmetric_size=3)]
)
def test_a_conv_builder_survives_description(conv):
    description = json.loads(json.dumps(describe(conv)))
    assert repr(build_conv(description)) == repr(conv)


def test_a_partial_of_a_backbone_survives_description():
    description = describe(partial(ResNetCifar, depth=8, shortcut="identity"))
    assert description == {
        "class_path": "acnet_pl.backbones.resnet_cifar.ResNetCifar",
        "init_args": {"depth": 8, "shortcut": "identity"},
    }
    network = build_network(description, describe(ACBConv(vertical=False)), 7)
    direct = ResNetCifar(ACBConv(vertical=False), 7, depth=8, shortcut="identity")
    assert [(k, v.shape) for k, v in network.state_dict().items()] == [
        (k, v.shape) for k, v in direct.state_dict().items()
    ]


def test_initial_weights_are_not_needed_to_build_again(tmp_path):
    description = describe(partial(Torchvision, name="squeezenet1_0", weights_file=str(tmp_path / "gone.pth")))
    assert "weights_file" not in description["init_args"]


def test_a_lambda_cannot_be_described():
    with pytest.raises(TypeError, match="a function of a module"):
        describe(lambda conv, n: nn.Linear(1, n))


def test_options_that_are_no_plain_data_cannot_be_described():
    with pytest.raises(TypeError, match="must be plain data"):
        describe(partial(ResNetCifar, depth=torch.zeros(3)))


@pytest.mark.parametrize("path", ["antigravity.fly", "this.s", "os.path.nothing.at.all", "sklearn.nothing.Net"])
def test_no_module_is_imported_for_a_file(path):
    loaded = set(sys.modules)
    with pytest.raises(ValueError, match=r"not of a package that files may name|is of Python's standard library"):
        build_network({"class_path": path}, describe(PlainConv()), 10)
    assert "antigravity" not in sys.modules
    assert set(sys.modules) == loaded


@pytest.mark.parametrize("path", ["os.abort", "builtins.eval", "subprocess.Popen", "torch.load"])
def test_only_networks_are_built(path):
    """Modules that are imported already hold functions too: they must not be callable by naming them in a file."""
    with pytest.raises(ValueError, match=r"is not a backbone"):
        build_network({"class_path": path, "init_args": {}}, describe(PlainConv()), 10)


def test_a_name_that_is_gone_is_said_so():
    with pytest.raises(ValueError, match=r"no backbone acnet_pl\.backbones\.ResNetCIFAR in this version"):
        build_network({"class_path": "acnet_pl.backbones.ResNetCIFAR"}, describe(PlainConv()), 10)
    with pytest.raises(ValueError, match="is not a conv: expected a ConvBuilder"):
        build_conv({"class_path": "acnet_pl.backbones.ResNetCifar"})
