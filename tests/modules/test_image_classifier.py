from functools import partial

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import EarlyStopping
from pytorch_lightning.cli import ReduceLROnPlateau
from sklearn.metrics import top_k_accuracy_score
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

from acnet_pl.backbones import ResNetCifar
from acnet_pl.modules import CosineSchedule, ImageClassifier, StaircaseSchedule
from acnet_pl.nn import ACBConv, ACBlock, ConvNorm, PlainConv


def loader(samples=24, batch_size=8, classes=7):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(samples, 3, 8, 8, generator=generator)
    labels = torch.randint(classes, (samples,), generator=generator)
    return DataLoader(TensorDataset(images, labels), batch_size=batch_size)


def classifier(**options):
    options.setdefault("conv", ACBConv())
    return ImageClassifier(partial(ResNetCifar, depth=8), num_classes=7, **options)


def trainer(**options):
    options = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "enable_checkpointing": False} | options
    return pl.Trainer(accelerator="cpu", enable_model_summary=False, **options)


pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:`max_epochs` was not set"),
]


@pytest.mark.parametrize(("conv", "block"), [(PlainConv(), ConvNorm), (ACBConv(), ACBlock), (None, ConvNorm)])
def test_the_injected_builder_builds_the_network(conv, block):
    assert type(classifier(conv=conv).net.stages[0][0].conv1) is block


def test_evaluation_figures_are_those_of_scikit_learn():
    model = classifier()
    data = loader(samples=20, batch_size=8)  # a last batch of another size
    (figures,) = trainer().test(model, data, verbose=False)
    images, labels = data.dataset.tensors
    model.eval()
    with torch.no_grad():
        logits = model(images)
    for k in (1, 5):
        expected = top_k_accuracy_score(labels.numpy(), logits.numpy(), k=k, labels=range(7))
        assert figures[f"test/top{k}"] == pytest.approx(expected)
    assert figures["test/loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)


def test_predictions_are_probabilities():
    model = classifier()
    data = loader()
    outputs = torch.cat(trainer().predict(model, data))
    assert outputs.shape == (24, 7)
    assert torch.allclose(outputs.sum(1), torch.ones(24))
    with torch.no_grad():
        assert torch.equal(outputs.argmax(1), model.eval()(data.dataset.tensors[0]).argmax(1))


def test_parameter_groups_get_their_rates_and_decays():
    model = classifier(
        optimizer=partial(SGD, lr=0.5, weight_decay=1e-3, momentum=0.9),
        decay_norm_and_bias=False,
        bias_lr_multiplier=2,
        schedule=StaircaseSchedule([1000]),
    )
    run = trainer()
    run.fit(model, loader())
    groups = {group["kind"]: group for group in run.optimizers[0].param_groups}
    assert {kind: (g["initial_lr"], g["weight_decay"]) for kind, g in groups.items()} == {
        "kernel": (0.5, 1e-3),
        "norm": (0.5, 0.0),
        "bias": (1.0, 0.0),
    }
    assert all(p.ndim > 1 for p in groups["kernel"]["params"])
    assert sum(p.numel() for g in groups.values() for p in g["params"]) == sum(p.numel() for p in model.parameters())
    biases = {id(p) for name, p in model.named_parameters() if name.endswith("bias")}
    assert {id(p) for p in groups["bias"]["params"]} == biases


def test_by_default_everything_decays():
    model = classifier()
    run = trainer()
    run.fit(model, loader())
    assert {group["weight_decay"] for group in run.optimizers[0].param_groups} == {1e-4}


def test_a_schedule_is_stepped_per_iteration_over_the_whole_training():
    rates = []

    class Recorder(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    schedule = CosineSchedule(warmup_epochs=1)
    model = classifier(optimizer=partial(SGD, lr=0.4), schedule=schedule)
    trainer(max_epochs=4, callbacks=[Recorder()]).fit(model, loader())
    assert rates == pytest.approx([0.4 * schedule.factor(step, 3, 4) for step in range(12)])


def test_steps_can_limit_training_instead_of_epochs():
    model = classifier(schedule=CosineSchedule())
    run = trainer(max_epochs=-1, max_steps=6)
    run.fit(model, loader())
    assert run.global_step == 6
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_steps_that_end_training_early_leave_an_epoch_its_length(accumulate):
    model = classifier(optimizer=partial(SGD, lr=1.0), schedule=StaircaseSchedule([1, 2], 0.1))
    run = trainer(max_epochs=100, max_steps=7, accumulate_grad_batches=accumulate)
    run.fit(model, loader())  # three batches an epoch
    assert run.global_step == 7
    epochs = {1: 2, 2: 3}[accumulate]  # begun after 7 steps
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 ** min(epochs, 2))


def test_no_training_at_all_is_no_error():
    run = trainer(max_epochs=0)
    run.fit(classifier(schedule=CosineSchedule()), loader())
    assert run.global_step == 0


def test_endless_training_needs_no_schedule_that_ends():
    with pytest.raises(ValueError, match=r"set trainer.max_epochs or trainer.max_steps"):
        trainer(max_epochs=-1).fit(classifier(), loader())


def test_torchs_schedulers_are_stepped_per_epoch():
    model = classifier(optimizer=partial(AdamW, lr=0.1), schedule=partial(StepLR, step_size=1, gamma=0.5))
    run = trainer(max_epochs=3)
    run.fit(model, loader())
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**3)


def test_label_smoothing_reaches_the_training_loss_alone():
    model = classifier(label_smoothing=0.3)
    images, _ = next(iter(loader()))
    labels = torch.full((len(images),), 6)
    model.train()
    model.log = lambda *args, **kwargs: None
    with torch.no_grad():
        model.net.classifier.bias.copy_(torch.arange(7.0))  # sure and right: then smoothing costs most
        logits = model(images)
    loss = model.training_step((images, labels), 0)
    smoothed = F.cross_entropy(logits, labels, label_smoothing=0.3).item()
    hard = F.cross_entropy(logits, labels).item()
    assert loss.item() == pytest.approx(smoothed, rel=1e-5)
    assert abs(smoothed - hard) > 0.1
    model.eval()
    model.validation_step((images, labels), 0)
    assert model.val_loss.compute().item() == pytest.approx(F.cross_entropy(model(images), labels).item(), rel=1e-5)


@pytest.mark.parametrize("conv", [PlainConv(), ACBConv(gamma_init=0.3, position="border")])
def test_checkpoints_hold_plain_data_and_restore_the_same_model(tmp_path, conv):
    model = classifier(conv=conv, optimizer=partial(SGD, lr=0.01, nesterov=True, momentum=0.9))
    run = trainer()
    run.fit(model, loader())
    run.save_checkpoint(tmp_path / "model.ckpt")
    assert torch.load(tmp_path / "model.ckpt", weights_only=True)["hyper_parameters"]["num_classes"] == 7
    restored = ImageClassifier.load_from_checkpoint(tmp_path / "model.ckpt", weights_only=True)
    images = loader().dataset.tensors[0]
    with torch.no_grad():
        assert torch.equal(restored.eval()(images), model.eval()(images))
    assert restored.hparams["conv"] == model.hparams["conv"]
    assert restored.optimizer_factory([torch.zeros(1, requires_grad=True)]).defaults["nesterov"] is True


def test_channels_last_and_compile_train_the_same_network():
    torch.manual_seed(0)
    reference = classifier()
    fast = classifier(channels_last=True, compile=True)
    fast.load_state_dict(reference.state_dict())
    fast.net._compiled_call_impl = None
    fast.net.compile(backend="eager", fullgraph=True)
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in fast.parameters() if p.ndim == 4)
    for model in (reference, fast):
        trainer(max_epochs=1).fit(model, loader())
    for (name, a), b in zip(reference.state_dict().items(), fast.state_dict().values(), strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-5), name


def test_of_few_classes_there_is_no_top5():
    model = ImageClassifier(partial(ResNetCifar, depth=8), PlainConv(), num_classes=3)
    (figures,) = trainer().test(model, loader(classes=3), verbose=False)
    assert set(figures) == {"test/loss", "test/top1"}


@pytest.mark.parametrize(
    ("monitor", "message"),
    [("val_top1", "did you mean val/top1"), ("val/acc", "did you mean val/top1"), ("f1", "there are train/loss")],
)
def test_a_monitor_that_no_metric_has_is_an_error_before_the_first_step(monitor, message, tmp_path):
    steps = []
    model = classifier()
    model.training_step = lambda *_: steps.append(1)
    stop = EarlyStopping(monitor)
    with pytest.raises(ValueError, match=f"EarlyStopping has monitor='{monitor}'.*{message}"):
        trainer(max_epochs=1, callbacks=[stop]).fit(model, loader())
    assert not steps


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"max_epochs": 2, "check_val_every_n_epoch": 3}, r"check_val_every_n_epoch \(=3\) is more than .* \(=2\)"),
        ({"limit_val_batches": 0}, "limit_val_batches is 0"),
    ],
)
def test_a_monitor_of_a_validation_that_never_happens_is_an_error(options, why):
    stop = EarlyStopping("val/top1")
    with pytest.raises(ValueError, match=f"monitor='val/top1', which no validation will measure: trainer.{why}"):
        trainer(**options, callbacks=[stop]).fit(classifier(), loader(), loader())
    plateau = partial(ReduceLROnPlateau, monitor="val/loss")
    with pytest.raises(ValueError, match=f"ReduceLROnPlateau has .* no validation will measure: trainer.{why}"):
        trainer(**options).fit(classifier(schedule=plateau), loader(), loader())


@pytest.mark.parametrize("steps", [-1, 5])
def test_a_training_without_batches_is_named(steps):
    with pytest.raises(ValueError, match="limit_train_batches is 0, which leaves no batches to train on"):
        trainer(max_epochs=1, max_steps=steps, limit_train_batches=0).fit(classifier(), loader())


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, 2.0, float("nan")])
def test_label_smoothing_out_of_range_is_named(smoothing):
    with pytest.raises(ValueError, match=r"`label_smoothing` .* must be at least 0 and less than 1"):
        ImageClassifier(ResNetCifar, label_smoothing=smoothing)


@pytest.mark.parametrize("kind", [torch.int64, torch.complex64])
def test_weights_of_another_kind_are_refused(kind):
    model = classifier()
    name = next(iter(model.state_dict()))
    state = {**model.state_dict(), name: model.state_dict()[name].to(kind)}
    with pytest.raises(ValueError, match=f"`{name}` is {str(kind)[6:]} in the checkpoint and float32 in the network"):
        model.load_state_dict(state)
