"""A LightningModule of your own: its network gets blocks, the callbacks check and fuse it."""

import torch.nn.functional as F
from pytorch_lightning import LightningModule, Trainer
from torch import nn, optim, randn
from torch.utils.data import DataLoader

from acnet_pl import convert_to_acnet, load_fused
from acnet_pl.callbacks import EquivalenceCheck, FuseOnFitEnd, RotationRobustness


class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 2, 3, padding=1)
        )

    def forward(self, image):
        return self.layers(image)


class MyModule(LightningModule):
    def __init__(self):
        super().__init__()
        self.model = convert_to_acnet(Segmenter())

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.model(batch["image"]), batch["mask"])

    def validation_step(self, batch, batch_idx):
        self.log("val/loss", self.training_step(batch, batch_idx), batch_size=len(batch["image"]))

    def test_step(self, batch, batch_idx):
        self.log("test/loss", self.training_step(batch, batch_idx), batch_size=len(batch["image"]))

    def configure_optimizers(self):
        return optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def pixel_accuracy(outputs, batch):
    return (outputs.argmax(1) == batch["mask"]).float().mean()


images = randn(64, 3, 16, 16)
loader = DataLoader([{"image": image, "mask": (image[0] > 0).long()} for image in images], batch_size=16)
fuse = FuseOnFitEnd()
checks = [EquivalenceCheck(metric=pixel_accuracy), RotationRobustness(metric=pixel_accuracy), fuse]
module, trainer = MyModule(), Trainer(max_epochs=2, callbacks=checks, log_every_n_steps=4)
trainer.fit(module, loader, loader)
trainer.test(module, loader)
network = load_fused(fuse.result.path, into=Segmenter())  # the network without blocks, with the trained weights
