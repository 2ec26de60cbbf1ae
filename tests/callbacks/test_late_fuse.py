"""LateFuse: the same function when it fuses, a plain net's training afterwards, and checkpoints that resume."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import SGD, Adam, AdamW, RMSprop

import acnet_pl
from acnet_pl.backbones import CifarQuick, ResNetCifar
from acnet_pl.callbacks import EquivalenceCheck, FuseOnFitEnd, LateFuse, ProgressBar, RunCheckpoint
from acnet_pl.checkpoint import AtomicCheckpointIO, load_network
from acnet_pl.data import DigitsDataModule
from acnet_pl.modules import ImageClassifier
from acnet_pl.nn import ACBConv, ACBlock, ConvNorm, FusibleConv, FusionError, PlainConv
from acnet_pl.nn.fusible import Branch
from acnet_pl.nn.surgery.late import fuse_block, fused_velocity, output_moments
from acnet_pl.nn.surgery.replacing import replace_modules

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*smaller than the logging interval",
    "ignore:.*many workers",
    "ignore:.*callbacks used to create the checkpoint",
    "ignore:Grad strides do not match bucket",  # DDP's, of 1×1 kernels
)
BUILDERS = [ACBConv(gamma_init=1 / 3), ACBConv(branch_norm=False), ACBConv(branch_norm="scale", vertical=False)]
STEPS = 4  # batches of 256 training digits


class DeathError(Exception):
    pass


class DieBefore(pl.Callback):
    """Ends a run before one batch."""

    def __init__(self, epoch: int, batch: int) -> None:
        self.at = epoch, batch

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            raise DeathError


def randomise(network: nn.Module) -> nn.Module:
    for name, tensor in network.state_dict().items():
        if "norm" in name or "scale" in name:
            tensor.copy_(torch.rand_like(tensor.float()) + 0.5)
    return network


def classifier(conv: Any, **options: Any) -> ImageClassifier:
    torch.manual_seed(0)
    return ImageClassifier(partial(ResNetCifar, depth=8), conv, **options)


def trainer(folder: Path, *callbacks: pl.Callback, epochs: int = 3, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {"enable_checkpointing": any(isinstance(c, ModelCheckpoint) for c in callbacks)}
    defaults["plugins"] = [AtomicCheckpointIO()]
    defaults |= {"num_sanity_val_steps": 0, "enable_progress_bar": False, "enable_model_summary": False}
    return pl.Trainer(
        max_epochs=epochs, accelerator="cpu", deterministic=True, logger=False, default_root_dir=folder,
        callbacks=[*callbacks], **{**defaults, **options},
    )  # fmt: skip


def data() -> DigitsDataModule:
    return DigitsDataModule(image_size=8, batch_size=256)


def blocks(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, ACBlock)]


def fused_plain(network: nn.Module, images: Tensor) -> nn.Module:
    moments = output_moments(network, images)
    return replace_modules(network, {block: fuse_block(block, found) for block, found in moments.items()})


def test_hooks_go_on_and_do_not_change_the_statistics() -> None:
    network: Any = randomise(nn.Sequential(ACBlock(4, 6, 3, padding=1), nn.ReLU())).double().train()
    bare, images = copy.deepcopy(network), torch.randn(5, 4, 9, 9, dtype=torch.float64)
    network[0].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    network[0].register_forward_hook(lambda module, args, output: 3 * output)
    gradients: list[Tensor] = []
    network[0].register_full_backward_hook(lambda module, given, got: gradients.append(got[0]))
    expected = copy.deepcopy(network).eval()(images)
    layer = fuse_block(network[0], output_moments(network, images)[network[0]])
    alone = fuse_block(bare[0], output_moments(bare, images + 1)[bare[0]])
    assert layer.norm is not None
    assert alone.norm is not None
    torch.testing.assert_close(layer.norm.running_var, alone.norm.running_var)
    given = images.clone().requires_grad_()
    found = nn.Sequential(layer, nn.ReLU()).eval()(given)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert len(gradients) == 1


def test_a_block_with_a_replaced_forward_stays() -> None:
    block = ACBlock(4, 6, 3)
    block.forward = torch.tanh  # type: ignore[method-assign]
    with pytest.raises(FusionError, match="ACBlock has a forward of its own"):
        fuse_block(block, (torch.zeros(6), torch.ones(6)))


@pytest.mark.parametrize("conv", BUILDERS, ids=repr)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_function_stays_and_batches_are_normalised_as_before(conv: Any, dtype: Any, tolerance: float) -> None:
    network = randomise(CifarQuick(conv, 10)).to(dtype).train()
    images = torch.randn(64, 3, 32, 32, dtype=dtype)
    trained = copy.deepcopy(network).eval()
    plain = fused_plain(network, images)
    assert not blocks(plain)
    assert all(module.training for module in plain.modules())
    with torch.no_grad(), acnet_pl.explicit_branches(trained):
        expected = trained(images)
        evaluated = copy.deepcopy(plain).eval()(images)
        assert (evaluated - expected).abs().max() <= tolerance * expected.abs().max()
    if conv.branch_norm is True:  # by its own statistics the first batch is mapped as by the running ones
        with torch.no_grad():
            assert (plain(images) - expected).abs().max() <= 1e-3 * expected.abs().max()


def test_the_statistics_are_those_of_the_fused_convolution() -> None:
    block = randomise(ACBlock(4, 6, 3, 2, 1, groups=2, padding_mode="reflect")).double().train()
    assert isinstance(block, ACBlock)
    images = torch.randn(5, 4, 9, 9, dtype=torch.float64) + 1
    kernel, bias = (tensor.detach() for tensor in block.fuse_kernel())
    padded = nn.functional.pad(images, (1, 1, 1, 1), mode="reflect")
    output = nn.functional.conv2d(padded, kernel, None, 2, groups=2).transpose(0, 1).flatten(1)
    layer = fuse_block(block, output_moments(nn.Sequential(block), images)[block])
    assert layer.norm is not None
    torch.testing.assert_close(layer.norm.running_mean, output.mean(1))
    torch.testing.assert_close(layer.norm.running_var, output.var(1))
    torch.testing.assert_close(layer.norm.weight.detach(), (output.var(1) + layer.norm.eps).sqrt())
    torch.testing.assert_close(layer.norm.bias.detach(), bias + output.mean(1))
    assert layer.norm.num_batches_tracked == 1
    torch.testing.assert_close(layer.eval()(images), nn.functional.conv2d(padded, kernel, bias, 2, groups=2))


@pytest.mark.parametrize("conv", BUILDERS, ids=repr)
def test_velocity_is_that_of_the_fused_kernel(conv: Any) -> None:
    block: Any = randomise(conv(3, 4, 3, padding=1)).double()
    velocity = {parameter: torch.randn_like(parameter) for parameter in block.parameters()}

    def fused(time: float) -> Tensor:
        moved = copy.deepcopy(block)
        with torch.no_grad():
            for mine, parameter in zip(moved.parameters(), block.parameters(), strict=True):
                mine.add_(velocity[parameter], alpha=time)
        return fuse_block(moved, (torch.zeros(4), torch.ones(4))).conv.weight.detach()

    expected = (fused(1e-6) - fused(-1e-6)) / 2e-6
    found = fused_velocity(block, velocity)
    torch.testing.assert_close(found[block.square.weight], expected, rtol=1e-6, atol=1e-6)
    if conv.branch_norm is True:
        torch.testing.assert_close(
            found[block.square_norm.bias], sum(velocity[norm.bias] for norm in block.norms()), rtol=0, atol=1e-12
        )
        assert not found[block.square_norm.weight].any()
    else:
        assert torch.equal(found[block.norm.weight], velocity[block.norm.weight])


@pytest.mark.parametrize("conv", BUILDERS, ids=repr)
def test_training_goes_on_as_that_of_a_plain_network(conv: Any, tmp_path: Path) -> None:
    class Watch(pl.Callback):
        """Sets a plain network beside the run after fusing."""

        plain: ImageClassifier
        optimizer: torch.optim.Optimizer
        steps = 0
        rates: list[float] = []  # noqa: RUF012

        def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.current_epoch == 1 and batch_idx == 0:
                self.plain = classifier(PlainConv(), decay_norm_and_bias=False, bias_lr_multiplier=2.0).train()
                self.plain.load_state_dict(module.state_dict())
                groups = self.plain._parameter_groups()
                names = {id(p): name for name, p in module.named_parameters()}
                theirs = {id(p): name for name, p in self.plain.named_parameters()}
                (run,) = trainer.optimizers
                for mine, group in zip(groups, run.param_groups, strict=True):
                    assert [theirs[id(p)] for p in mine["params"]] == [names[id(p)] for p in group["params"]]
                self.optimizer = SGD(groups, lr=0.1)
                self.optimizer.load_state_dict(copy.deepcopy(run.state_dict()))
            if trainer.current_epoch == 1:
                rates = [group["lr"] for group in trainer.optimizers[0].param_groups]
                for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate
                self.rates.append(rates[0])
                images, labels = batch
                self.optimizer.zero_grad()
                nn.functional.cross_entropy(self.plain(images), labels).backward()

        def on_train_batch_end(self, trainer: pl.Trainer, module: Any, *_: Any) -> None:
            if trainer.current_epoch == 1:
                self.optimizer.step()
                self.steps += 1
                for name, tensor in module.state_dict().items():
                    torch.testing.assert_close(tensor, self.plain.state_dict()[name], rtol=1e-4, atol=1e-5)

    watch, model = Watch(), classifier(conv, decay_norm_and_bias=False, bias_lr_multiplier=2.0)
    trainer(tmp_path, LateFuse(1), watch, epochs=2).fit(model, datamodule=data())
    assert watch.steps == STEPS
    assert sum(isinstance(module, ConvNorm) for module in model.modules()) == 9
    expected = [
        0.05 * (1 + torch.cos(torch.tensor(torch.pi * s / (2 * STEPS))).item()) for s in range(STEPS, 2 * STEPS)
    ]
    assert watch.rates == pytest.approx(expected, rel=1e-5)


class Momenta(pl.Callback):
    """Remembers the optimizer before and after fusing."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []

    def on_train_batch_start(self, trainer: pl.Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 1 and batch_idx == 0:
            self.states.append(copy.deepcopy(trainer.optimizers[0].state_dict()))


@pytest.mark.parametrize(
    "optimizer", [partial(SGD, lr=0.1, momentum=0.9), partial(SGD, lr=0.1), partial(Adam, lr=1e-3)]
)
def test_momentum_is_carried_over_and_other_states_begin_anew(optimizer: Any, tmp_path: Path) -> None:
    momenta = Momenta()
    model = classifier(ACBConv(), optimizer=optimizer)
    trainer(tmp_path, LateFuse(1), momenta, epochs=2).fit(model, datamodule=data())
    (state,) = momenta.states
    parameters = dict(model.named_parameters())
    assert sum(len(group["params"]) for group in state["param_groups"]) == len(parameters)
    if optimizer.func is Adam:
        assert len(state["state"]) == len(parameters) - 7 * 3  # 7 blocks have become a kernel, γ and β
    elif "momentum" in optimizer.keywords:
        buffers = [entry["momentum_buffer"] for entry in state["state"].values()]
        assert len(buffers) == len(parameters)
        assert sum(not buffer.any() for buffer in buffers) == 7  # the γ of what were blocks


@pytest.mark.parametrize("optimizer", [partial(SGD, lr=0.1, momentum=0.9), partial(Adam, lr=1e-3), RMSprop, AdamW])
def test_blocks_that_are_fused_before_the_first_step_train(optimizer: Any, tmp_path: Path) -> None:
    model = classifier(ACBConv(), optimizer=optimizer)
    run = trainer(tmp_path, LateFuse(0), epochs=1)
    run.fit(model, datamodule=data())
    assert run.global_step == STEPS
    assert not any(isinstance(module, ACBlock) for module in model.modules())


@pytest.mark.parametrize(
    ("death", "first"),
    [((1, 0), True), ((1, 0), False), ((1, 3), False), ((2, 1), True)],
    ids=["checkpoint first, when fusing", "fuse first, when fusing", "after it", "an epoch later"],
)
def test_a_killed_run_ends_with_the_same_bits(death: tuple[int, int], first: bool, tmp_path: Path) -> None:
    def run(folder: Path, *others: pl.Callback, resume: str | None = None) -> ImageClassifier:
        save = RunCheckpoint(every_n_steps=2)
        save.resume_from = resume
        order = [save, LateFuse(1)] if first else [LateFuse(1), save]
        pl.seed_everything(0, verbose=False)
        model = classifier(ACBConv(gamma_init=1 / 3))
        trainer(folder, *order, *others).fit(model, datamodule=data(), ckpt_path=resume)
        return model

    undisturbed = run(tmp_path / "a").state_dict()
    with pytest.raises(DeathError):
        run(tmp_path / "b", DieBefore(*death))
    last = tmp_path / "b" / "checkpoints" / "last.ckpt"
    saved = torch.load(last, weights_only=True)["state_dict"]
    assert "net.stem.conv.weight" in saved  # wherever in the list, it fuses first
    resumed = run(tmp_path / "b", resume=str(last)).state_dict()
    assert resumed.keys() == undisturbed.keys()
    assert all(torch.equal(resumed[name], undisturbed[name]) for name in resumed)
    ends = [torch.load(tmp_path / run / "checkpoints" / "last.ckpt", weights_only=True) for run in ("a", "b")]
    for key in ("optimizer_states", "lr_schedulers"):
        left, right = (torch.utils._pytree.tree_flatten(end[key])[0] for end in ends)
        assert all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(left, right, strict=True))


def test_a_checkpoint_after_fusing_loads_everywhere(tmp_path: Path) -> None:
    model, fuse, equivalence = classifier(ACBConv()), FuseOnFitEnd(), EquivalenceCheck()
    best = ModelCheckpoint(tmp_path, monitor="val/top1", mode="max")
    run = trainer(tmp_path, RunCheckpoint(), LateFuse(0.5), best, fuse, equivalence, epochs=2)
    run.fit(model, datamodule=data())
    assert equivalence.result is not None
    assert equivalence.result.max_rel_difference <= 1e-5
    assert fuse.result is not None
    assert fuse.result.weights == "best"
    (outcome,) = run.validate(model, datamodule=data(), ckpt_path=best.best_model_path, verbose=False)
    images = torch.randn(4, 3, 8, 8)
    last = tmp_path / "checkpoints" / "last.ckpt"
    network, _ = load_network(last)
    assert not blocks(network)
    with torch.no_grad():
        expected = model.eval()(images)
        assert torch.equal(network(images), expected)
        again = ImageClassifier.load_from_checkpoint(last).eval()
        assert torch.equal(again(images), expected)
        torch.testing.assert_close(acnet_pl.load_fused(fuse.result.path)(images), expected, rtol=1e-4, atol=1e-4)
    fresh = classifier(ACBConv())
    (other,) = trainer(tmp_path, EquivalenceCheck()).validate(fresh, datamodule=data(), ckpt_path=last, verbose=False)
    assert other["val/top1"] == outcome["val/top1"]


def test_the_best_weights_are_chosen_anew_after_fusing(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="train/top1", mode="min", filename="best-{epoch}")  # the first is the best
    fuse = FuseOnFitEnd()
    trainer(tmp_path, RunCheckpoint(), LateFuse(1), best, fuse).fit(classifier(ACBConv()), datamodule=data())
    assert [path.name for path in tmp_path.glob("best*")] == ["best-epoch=1.ckpt"]
    assert fuse.result is not None
    assert fuse.result.checkpoint == best.best_model_path == str(tmp_path / "best-epoch=1.ckpt")


def test_a_compiled_network_is_compiled_again(tmp_path: Path) -> None:
    torch.compiler.reset()
    model, twin = classifier(ACBConv()), classifier(ACBConv())
    model.net.compile(backend="eager")
    for module, folder in ((model, "a"), (twin, "b")):
        pl.seed_everything(0, verbose=False)
        trainer(tmp_path / folder, LateFuse(1), epochs=2, limit_train_batches=2, limit_val_batches=0).fit(
            module, datamodule=data()
        )
    assert not blocks(model)
    for name, tensor in twin.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-3, atol=1e-4)


def test_a_network_without_blocks_is_left_alone(tmp_path: Path) -> None:
    model = classifier(PlainConv())
    parameters = {id(parameter) for parameter in model.parameters()}
    trainer(tmp_path, LateFuse(0), epochs=1).fit(model, datamodule=data())
    assert {id(parameter) for parameter in model.parameters()} == parameters


def test_a_block_that_cannot_be_fused() -> None:
    block = ACBlock(4, 6, 3)
    with pytest.raises(ValueError, match="needs the `moments`"):
        fuse_block(block)
    block.square_norm = nn.BatchNorm2d(6, affine=False)
    with pytest.raises(FusionError, match="affine=False"):
        fuse_block(block, (torch.zeros(6), torch.ones(6)))
    block.square_norm = nn.BatchNorm2d(6, track_running_stats=False)
    with pytest.raises(FusionError, match="running statistics"):
        fuse_block(block, (torch.zeros(6), torch.ones(6)))
    network = nn.ModuleDict({"used": ACBlock(4, 4, 3), "unused": ACBlock(4, 4, 3)})
    network.forward = lambda x: network["used"](x)
    with pytest.raises(FusionError, match="takes no part"):
        output_moments(network, torch.randn(2, 4, 5, 5))


class Named(FusibleConv):
    """The sum of two convolutions, whose layers have the names that are given, and one batch norm after it."""

    def __init__(self, first: str = "square", second: str = "other", norm_first: bool = False) -> None:
        super().__init__(4, 4, (3, 3), (1, 1), (1, 1), (1, 1), 1, "zeros")
        if norm_first:
            self.norm = nn.BatchNorm2d(4)
        self.names = [first, second] if second else [first]
        for name in self.names:
            self.add_module(name, nn.Conv2d(4, 4, 3, padding=1, bias=False))
        if not norm_first:
            self.norm = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_branches(x)

    def forward_branches(self, x: Tensor) -> Tensor:
        out: Tensor = self.norm(sum(self.get_submodule(name)(x) for name in self.names))  # type: ignore[misc]
        return out

    def branches(self) -> list[Branch]:
        return [Branch(name, "3×3", (self.get_submodule(name).weight,), None) for name in self.names]  # type: ignore[arg-type]

    def fuse_branches(self) -> dict[str, tuple[Tensor, Tensor]]:
        zero = torch.zeros(4, dtype=torch.float64)
        return {branch.name: (branch.kernels[0].double(), zero) for branch in self.branches()}


class Pair(pl.LightningModule):
    """Two blocks; ``change`` alters the second, and may tie it to the first."""

    def __init__(self, change: Any, block: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        make = block or partial(ACBlock, 4, 4, 3, padding=1)
        self.net = nn.Sequential(make(), nn.ReLU(), make())
        change(self, self.net[2])

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return self.net(batch[0]).square().mean()  # type: ignore[no-any-return]

    def train_dataloader(self) -> Any:
        images = torch.randn(8, 4, 6, 6, generator=torch.Generator().manual_seed(0))
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), batch_size=4)

    def configure_optimizers(self) -> SGD:
        return SGD(self.parameters(), 0.1, momentum=0.9)


def without_affine(module: Pair, block: Any) -> None:
    block.square_norm = nn.BatchNorm2d(4, affine=False)


def weight_norm(module: Pair, block: Any) -> None:
    nn.utils.parametrizations.weight_norm(block.square)


def tie_kernels(module: Pair, block: Any) -> None:
    first: Any = module.net[0]
    block.square.weight = first.square.weight


def tie_to_another_layer(module: Pair, block: Any) -> None:
    module.head = nn.Conv2d(4, 4, 3)
    module.head.weight = block.square.weight


def share_a_norm(module: Pair, block: Any) -> None:
    first: Any = module.net[0]
    block.square_norm = first.square_norm


def use_elsewhere(module: Pair, block: Any) -> None:
    module.head = nn.Sequential(block.square)


def freeze_a_kernel(module: Pair, block: Any) -> None:
    block.square.weight.requires_grad_(False)


def give_a_bias(module: Pair, block: Any) -> None:
    block.vertical.bias = nn.Parameter(torch.zeros(4))


def names_of_a_plain_layer(module: Pair, block: Any) -> None:
    module.net[2] = Named("conv", "")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (without_affine, "affine=False"),
        (weight_norm, "no main kernel"),
        (tie_kernels, r"its weight is tied to `net\.2\.square\.weight`"),
        (tie_to_another_layer, r"its weight is tied to `head\.weight`"),
        (share_a_norm, "its `square_norm` is a layer of a ACBlock, too"),
        (use_elsewhere, "its `square` is a layer of a Sequential, too"),
        (freeze_a_kernel, "some of its kernels are frozen"),
        (give_a_bias, "has been given a bias"),
        (names_of_a_plain_layer, "have the names of a plain layer's"),
    ],
)
def test_what_cannot_be_fused_is_refused_before_the_first_step(change: Any, reason: str, tmp_path: Path) -> None:
    module = Pair(change)
    before = copy.deepcopy(module.state_dict())
    with pytest.raises(FusionError, match=rf"`net\.[02]` cannot be fused during training: .*{reason}"):
        trainer(tmp_path, LateFuse(1, network="net")).fit(module)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_an_optimizer_has_the_order_of_a_resumed_one(tmp_path: Path) -> None:
    def make() -> Pair:
        return Pair(lambda *_: None, partial(Named, norm_first=True))

    checkpoint = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    trainer(tmp_path, LateFuse(1), checkpoint).fit(through := make())
    resumed = make()
    resuming = trainer(tmp_path / "again", LateFuse(1))
    resuming.fit(resumed, ckpt_path=str(tmp_path / "epoch=1.ckpt"))
    assert [type(layer) for layer in resumed.net] == [ConvNorm, nn.ReLU, ConvNorm]
    assert all(torch.equal(a, b) for a, b in zip(through.parameters(), resumed.parameters(), strict=True))


def test_a_state_with_some_of_a_blocks_tensors_is_not_a_plain_layers() -> None:
    block = Named("conv", "other")
    state = {name: value for name, value in block.state_dict().items() if "num_batches" not in name}
    block.load_state_dict(state, strict=False)
    assert type(block) is Named


def test_a_block_becomes_what_is_loaded_into_it() -> None:
    block, hooked = ACBlock(4, 6, 3), []
    block.register_forward_hook(lambda *_: hooked.append(1))
    layer = fuse_block(ACBlock(4, 6, 3), (torch.zeros(6), torch.ones(6)))
    block.load_state_dict(layer.state_dict())
    assert isinstance(block, ConvNorm)
    images = torch.randn(2, 4, 5, 5)
    assert torch.equal(block.eval()(images), layer.eval()(images))
    assert hooked
    with pytest.raises(RuntimeError, match="Missing key"):  # of neither
        ACBlock(4, 6, 3).load_state_dict({"square.weight": torch.zeros(6, 4, 3, 3)})


@pytest.mark.parametrize(("epoch", "epochs", "first"), [(0.2, 4, 1), (0.29, 100, 29), (0.57, 100, 57), (0.0, 9, 0)])
def test_a_part_of_the_epochs_is_whole_epochs_and_not_none(epoch: float, epochs: int, first: int) -> None:
    assert LateFuse(epoch).first_epoch(epochs) == first


@pytest.mark.parametrize("epoch", [-1, 1.0, 1.5, -0.5, float("nan"), True])
def test_epochs_out_of_range(epoch: float) -> None:
    with pytest.raises(ValueError, match=r"`epoch` \(=.*\) must be a whole number from 0 on, or a part"):
        LateFuse(epoch)


def test_an_epoch_that_never_comes(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="LateFuse never comes: epoch 5 of 1"):
        trainer(tmp_path, LateFuse(5), epochs=1, limit_train_batches=1).fit(classifier(ACBConv()), datamodule=data())
    with pytest.raises(ValueError, match=r"trainer\.max_epochs, which is not set"):
        trainer(tmp_path, LateFuse(0.5), epochs=-1, max_steps=1).fit(classifier(ACBConv()), datamodule=data())


def test_the_epoch_is_told_as_in_the_progress_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    few: dict[str, Any] = {"limit_train_batches": 1, "limit_val_batches": 0, "enable_progress_bar": True}
    with caplog.at_level("INFO"):
        trainer(tmp_path, LateFuse(1), ProgressBar(), epochs=2, **few).fit(classifier(ACBConv()), datamodule=data())
    assert "Fused 7 blocks before epoch 2/2, counted from 1; going on as a plain network" in caplog.text
    lines = [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line.startswith("epoch")] == ["epoch 1/2", "epoch 2/2"]


def test_batch_norms_end_in_the_mode_they_had() -> None:
    network = randomise(CifarQuick(ACBConv(), 10)).train()
    frozen = next(module for module in network.modules() if isinstance(module, _BatchNorm)).eval()
    output_moments(network, torch.randn(2, 3, 32, 32))
    assert [m for m in network.modules() if not m.training] == [frozen]
