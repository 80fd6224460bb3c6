"""Networks that are small from the start, against which compressed large ones have to hold up."""

from collections import OrderedDict

from torch import nn


def tiny_cnn() -> nn.Sequential:
    """8 filters of 5 × 5 at every second pixel, then 16, 16 and 24 of 3 × 3, their means over the image, and 24-10.

    7,426 parameters for 28 × 28 images.  The first stride leaves a quarter of the places to compute.
    """
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(1, 8, 5, stride=2, padding=2),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(8, 16, 3, padding=1),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv3=nn.Conv2d(16, 16, 3, padding=1),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(16, 24, 3),
            relu4=nn.ReLU(),
            mean=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc1=nn.Linear(24, 10),
        )
    )
