"""Plain autoencoders: `encoder` and `decoder` with a code of 128 numbers between them that has no distribution."""

from collections import OrderedDict

from torch import nn

CODE = 128


def autoencoder_mnist() -> nn.Sequential:
    """784-128-784 with ReLU, 201,616 parameters: a student to distil `autoencoder_mnist_cnn` into."""
    encoder = OrderedDict(flatten=nn.Flatten(), fc1=nn.Linear(784, CODE), relu1=nn.ReLU())
    decoder = OrderedDict[str, nn.Module](fc2=nn.Linear(CODE, 784))
    return nn.Sequential(OrderedDict(encoder=nn.Sequential(encoder), decoder=nn.Sequential(decoder)))


def autoencoder_mnist_cnn() -> nn.Sequential:
    """Filters of 3 × 3: 16, 8, 8, each max-pooled by 2, to codes of 8 × 4 × 4; back by 8, 8, 16, 1; 4,385 parameters.

    7 × 7 images are padded to 8 × 8 before they are pooled; decoders enlarge by repeating pixels.
    """
    encoder = OrderedDict(
        conv1=nn.Conv2d(1, 16, 3, padding=1),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(16, 8, 3, padding=1),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        conv3=nn.Conv2d(8, 8, 3, padding=1),
        relu3=nn.ReLU(),
        pool3=nn.MaxPool2d(2, padding=1),
        flatten=nn.Flatten(),
    )
    decoder = OrderedDict(
        unflatten=nn.Unflatten(1, (8, 4, 4)),
        conv4=nn.Conv2d(8, 8, 3, padding=1),
        relu4=nn.ReLU(),
        enlarge1=nn.Upsample(scale_factor=2),
        conv5=nn.Conv2d(8, 8, 3, padding=1),
        relu5=nn.ReLU(),
        enlarge2=nn.Upsample(scale_factor=2),
        conv6=nn.Conv2d(8, 16, 3),
        relu6=nn.ReLU(),
        enlarge3=nn.Upsample(scale_factor=2),
        conv7=nn.Conv2d(16, 1, 3, padding=1),
        flatten=nn.Flatten(),
    )
    return nn.Sequential(OrderedDict(encoder=nn.Sequential(encoder), decoder=nn.Sequential(decoder)))
