"""Residual networks for images of 32 × 32 pixels, as He et al. 2016 made them for CIFAR-10."""

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), with convolutions of 3 × 3.

    The shortcut is the identity, or a convolution of 1 × 1 with batch norm where the shape changes ('option B').

    Args:
        inputs, outputs: channels.
        stride: of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs, height, width) to (n, outputs, height / stride, width / stride)."""
        inner = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """A convolution, three groups of blocks of w, 2w and 4w channels, the mean over all pixels, a dense layer.

    Args:
        blocks: of each group; the depth is 6 · blocks + 2.
        width: w.
        classes: outputs.
    """

    def __init__(self, blocks: int, width: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        groups, channels = [], width
        for group in range(3):
            for block in range(blocks):
                outputs = width * 2**group
                groups.append(ResidualBlock(channels, outputs, 2 if group and not block else 1))
                channels = outputs
        self.blocks = nn.Sequential(*groups)
        self.fc = nn.Linear(channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Images (n, 3, height, width) to (n, classes)."""
        x = F.relu(self.norm(self.conv(x)))
        return self.fc(self.blocks(x).mean((2, 3)))


def resnet_20() -> CifarResNet:
    """ResNet-20 (He et al. 2016) with shortcuts of 1 × 1 convolutions: 272,474 parameters."""
    return CifarResNet(blocks=3)
