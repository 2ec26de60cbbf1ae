"""A network of your own, trained with blocks and fused: `trainer.fit` in ten lines."""

from pytorch_lightning import Trainer
from torch import nn

from acnet_pl import ACBConv, ImageClassifier, load_fused
from acnet_pl.callbacks import EquivalenceCheck, FuseOnFitEnd
from acnet_pl.data import DigitsDataModule


class MyNet(nn.Sequential):
    def __init__(self, conv, num_classes):  # conv(in, out, kernel size) is a convolution with its batch norm
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, num_classes)]
        super().__init__(conv(3, 16, 3, padding=1), nn.ReLU(), conv(16, 32, 3, stride=2), nn.ReLU(), *head)


fuse = FuseOnFitEnd()
trainer = Trainer(max_epochs=2, log_every_n_steps=10, callbacks=[EquivalenceCheck(), fuse])
trainer.fit(ImageClassifier(MyNet, ACBConv()), DigitsDataModule(image_size=8))
print(load_fused(fuse.result.path, into=MyNet(ACBConv(), 10)))  # plain convolutions
