"""Small relatives of networks that people bring: every way in which results are combined, padded and normalised."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models import VisionTransformer


class Gate(nn.Module):
    """Squeeze and excitation, as in MobileNetV3 and EfficientNet."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.pool, self.gate = nn.AdaptiveAvgPool2d(1), gate
        self.less, self.more = nn.Conv2d(channels, channels // 2, 1), nn.Conv2d(channels // 2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(self.more(F.relu(self.less(self.pool(x))))) * x


class Inverted(nn.Module):
    """A block of MobileNetV3: wide, depthwise, gated, narrow, and the input added."""

    def __init__(self, channels: int, wide: int, act: type[nn.Module], gate: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False), nn.BatchNorm2d(wide), act(),
            nn.Conv2d(wide, wide, 3, padding=1, groups=wide, bias=False), nn.BatchNorm2d(wide), act(),
            Gate(wide, gate), nn.Conv2d(wide, channels, 1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def mobile() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.Hardswish(), Inverted(4, 8, nn.Hardswish, nn.Hardsigmoid()),
        Inverted(4, 6, nn.SiLU, nn.Sigmoid()), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5),
    )  # fmt: skip


class UNet(nn.Module):
    """Two steps down and up again, skip connections by concatenation, every padding and normalisation by example."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.third = nn.Sequential(
            nn.Conv2d(8, 6, 3, padding=1, padding_mode="reflect"), nn.InstanceNorm2d(6, affine=True), nn.Mish()
        )
        self.up, self.after_up = nn.ConvTranspose2d(6, 8, 2, stride=2), nn.Conv2d(16, 4, 3, padding="same")
        self.last, self.out = nn.Conv2d(8, 4, 3, padding=1, padding_mode="circular"), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        second = self.second(F.max_pool2d(first, 2))
        y = self.up(self.third(F.max_pool2d(second, 2)))
        y = F.interpolate(F.relu(self.after_up(torch.cat([y, second], 1))), scale_factor=2, mode="bilinear")
        return self.out(F.relu(self.last(torch.cat([first, y], dim=1))))


class Dense(nn.Module):
    """A dense block of DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 5, 3, padding=1), nn.Linear(14, 4)
        self.norms = nn.ModuleList(nn.BatchNorm2d(5 + 3 * number) for number in range(3))
        self.convs = nn.ModuleList(nn.Conv2d(5 + 3 * number, 3, 3, padding=1, bias=False) for number in range(3))

    def forward(self, x: Tensor) -> Tensor:
        found = [self.stem(x)]
        for norm, conv in zip(self.norms, self.convs, strict=True):
            found.append(conv(F.relu(norm(torch.cat(found, 1)))))
        return self.head(torch.cat(found, 1).mean((2, 3)))


class Inception(nn.Module):
    """Four branches of GoogLeNet, and pooling that rounds up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = nn.Conv2d(3, 6, 3, stride=2), nn.MaxPool2d(3, 2, ceil_mode=True)
        self.one, self.three, self.five = (
            nn.Conv2d(6, 3, 1),
            nn.Conv2d(6, 4, 3, padding=1),
            nn.Conv2d(6, 2, 5, padding=2),
        )
        self.pooled = nn.Sequential(nn.MaxPool2d(3, 1, padding=1, ceil_mode=True), nn.Conv2d(6, 3, 1))
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem(x)))
        y = torch.cat([self.one(x), self.three(x), F.relu(self.five(x)), self.pooled(x)], 1)
        return self.head(F.adaptive_max_pool2d(y, 1).flatten(1))


class Series(nn.Module):
    """A time series of two channels to three numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv1d(2, 6, 5, padding=2), nn.BatchNorm1d(6)
        self.each = nn.Conv1d(6, 6, 3, padding=2, dilation=2, groups=6)
        self.wide, self.groups, self.slopes = nn.Conv1d(6, 8, 1, bias=False), nn.GroupNorm(2, 8), nn.PReLU(8)
        self.up, self.head = nn.ConvTranspose1d(8, 4, 4, stride=2, padding=1), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool1d(F.relu(self.norm(self.first(x))), 2)
        return self.head(self.up(self.slopes(self.groups(self.wide(y + self.each(y))))).mean(-1))


class Filter(nn.Module):
    """A time series to one of the same length, the input added."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular")
        self.second = nn.Conv1d(4, 3, 5, padding=2)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.second(F.avg_pool1d(F.pad(F.silu(self.first(x)), (1, 1)), 3, 1)))


class Normalised(nn.Module):
    """Dense layers with layer norm, with and without a mean, weight and bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 12), nn.Linear(12, 12), nn.Linear(12, 3)
        self.norm, self.square, self.last = nn.LayerNorm(12), nn.RMSNorm(12), nn.LayerNorm(12, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.norm(self.first(x)))
        return self.head(self.last(y + F.mish(self.second(self.square(y)))))


class Gated(nn.Module):
    """A gated linear unit, and arithmetic with numbers, slices and the input itself."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.back, self.head = nn.Linear(6, 16), nn.Linear(8, 6), nn.Linear(11, 3)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.both(x).chunk(2, 1)
        y = self.back(value * torch.sigmoid(gate))
        return self.head(torch.cat([1 - y * y, (2 * x - y / 3)[:, 1:]], 1))


class Framed(nn.Module):
    """Padding in front of convolutions, differences, one pixel that goes with all, and two poolings side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pad, self.frame = (
            nn.Conv2d(2, 6, 3, padding=1),
            nn.ZeroPad2d((1, 2, 0, 1)),
            nn.ReplicationPad2d(1),
        )
        self.second, self.third = nn.Conv2d(6, 4, 3, bias=False), nn.Conv2d(4, 4, 3)
        self.norm, self.slope, self.head = nn.InstanceNorm2d(4), nn.PReLU(), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.pad(F.hardswish(self.first(x))))
        y = y - self.norm(self.third(self.frame(y)))
        y = self.slope(y + y.mean((2, 3), keepdim=True))
        return self.head(torch.cat([y.amax((2, 3)), y.mean((2, 3))], 1))


class Encoder(nn.Module):
    """Tokens of features, a class token and position embeddings, torch's own encoder, logits of the class token."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 8), nn.Linear(8, 3)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        before = nn.TransformerEncoderLayer(8, 2, 12, activation="gelu", norm_first=True, batch_first=True)
        behind = nn.TransformerEncoderLayer(8, 4, 6)
        # both ways to put norms, and the batch first or not
        self.before, self.behind = before, nn.TransformerEncoder(behind, 1, nn.LayerNorm(8), enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.token.expand(x.shape[0], -1, -1), self.first(x)], 1) + self.places
        return self.head(self.behind(self.before(y).transpose(0, 1))[0])


def vision() -> nn.Module:
    return VisionTransformer(
        image_size=8, patch_size=4, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=12, num_classes=3
    )


class ChannelsLast(nn.Module):
    """A block of ConvNeXt: norm and dense layers over the last axis, a scale for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.each = nn.Conv2d(2, 6, 2, 2), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.wide, self.narrow = nn.LayerNorm(6), nn.Linear(6, 15), nn.Linear(15, 6)
        self.scale, self.head = nn.Parameter(torch.ones(6, 1, 1)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.each(x).permute(0, 2, 3, 1))
        y = self.narrow(F.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return self.head((x + self.scale * y).mean((2, 3)))


class Mixer(nn.Module):
    """Dense layers over places and over features in turn, RMS norms, windows of places shuffled, a gate by the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.over_places, self.over_features = nn.Linear(6, 6), nn.Linear(4, 4, bias=False)
        self.norm, self.out = nn.RMSNorm(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = x + F.relu(self.over_places(x.transpose(1, 2))).transpose(1, 2)
        y = y.view(-1, 2, 3, 4).transpose(1, 2).reshape(-1, 6, 4)
        y = y + torch.tanh(self.over_features(self.norm(y))) * torch.sigmoid(y.mean(1, keepdim=True))
        return self.out(y)[:, 1:, :]


class SmallGPT(nn.Module):
    """Tokens to logits for every position, attention written out with a mask in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe, self.head = nn.Embedding(11, 8), nn.Embedding(7, 8), nn.Linear(8, 11, bias=False)
        self.norm, self.attn, self.proj = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.last, self.wide, self.narrow = nn.LayerNorm(8, bias=False), nn.Linear(8, 16), nn.Linear(16, 8)
        self.mask: Tensor
        self.register_buffer("mask", torch.tril(torch.ones(7, 7)).view(1, 1, 7, 7))

    def forward(self, tokens: Tensor) -> Tensor:
        count, places = tokens.size()
        assert places <= 7, "there are no more positions"
        x = self.wte(tokens.long()) + self.wpe(torch.arange(0, places, dtype=torch.long, device=tokens.device))
        q, k, v = self.attn(self.norm(x)).split(8, dim=2)
        q, k, v = (part.view(count, places, 2, 4).transpose(1, 2) for part in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / k.size(-1) ** 0.5)
        scores = scores.masked_fill(self.mask[:, :, :places, :places] == 0, float("-inf"))
        y = F.dropout(F.softmax(scores, dim=-1), 0.1, self.training) @ v
        x = x + self.proj(y.transpose(1, 2).contiguous().view(count, places, 8))
        y = self.wide(x)
        y = 0.5 * y * (1.0 + torch.tanh(0.7978845608 * (y + 0.044715 * torch.pow(y, 3.0))))
        return self.head(self.last(x + self.narrow(y)))


class TiedGPT(SmallGPT):
    """The same, whose output has the weights of the embedding, as GPT-2 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.head.weight = self.wte.weight


class Reader(nn.Module):
    """Two LSTM layers in both directions, a GRU over their outputs, logits of its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True, dropout=0.2)
        self.gru, self.out = nn.GRU(12, 7), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, last = self.gru(self.lstm(x)[0].transpose(0, 1))
        return self.out(last[-1])


class Elman(nn.Module):
    """Recurrent layers without gates, of series: the last output of one, the last states of another's directions."""

    def __init__(self) -> None:
        super().__init__()
        self.forth = nn.RNN(3, 5, nonlinearity="relu", batch_first=True, bias=False)
        self.both, self.out = nn.RNN(3, 4, batch_first=True, bidirectional=True), nn.Linear(13, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 1)
        start = torch.zeros(1, x.size(0), 5, dtype=x.dtype).to(x.device)
        outputs, (_, states) = self.forth(x, start)[0], self.both(x)
        return self.out(torch.cat([outputs[:, -1, :], states[0], states[1]], dim=1))


class Tutorial(nn.Module):
    """As in PyTorch's first tutorials: features are counted, and a view flattens them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.pool, self.conv2 = nn.Conv2d(1, 6, 3), nn.MaxPool2d(2, 2), nn.Conv2d(6, 8, 3)
        self.fc1, self.fc2 = nn.Linear(8 * 2 * 2, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, self.num_flat_features(x))
        return self.fc2(F.relu(self.fc1(x)))

    def num_flat_features(self, x: Tensor) -> int:
        num_features = 1
        for s in x.size()[1:]:
            num_features *= s
        return num_features


class Excited(nn.Module):
    """Squeeze and excitation as it is mostly written, behind channels that are shuffled between groups."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.ChannelShuffle(2))
        self.mix = nn.Conv2d(6, 6, 1, groups=2)
        self.less, self.more = nn.Linear(6, 3), nn.Linear(3, 6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.mix(self.groups(x))
        b, c, _, _ = x.size()
        y = F.adaptive_avg_pool2d(x, 1).view(b, c)
        y = torch.sigmoid(self.more(F.relu(self.less(y)))).view(b, c, 1, 1)
        x = x * y.expand_as(x)
        return self.head(x.mean(dim=(2, 3)))


class Finer(nn.Module):
    """An image of twice the resolution: channels become pixels (ESPCN, Shi et al. 2016), with gates in front."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.gates = nn.Conv2d(1, 5, 3, padding=1), nn.Conv2d(5, 8, 3, padding=1)
        self.last, self.shuffle = nn.Conv2d(4, 4, 3, padding=1), nn.PixelShuffle(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.shuffle(self.last(F.glu(self.gates(torch.tanh(self.first(x))), dim=1)))


class Points(nn.Module):
    """Points in space, in whatever order: the largest feature over all of them (PointNet, Qi et al. 2017)."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.more, self.norm = nn.Conv1d(3, 6, 1), nn.Conv1d(6, 8, 1), nn.BatchNorm1d(6)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.more(F.relu(self.norm(self.each(x))))
        return self.head(torch.max(x, 2, keepdim=True)[0].view(-1, 8))


class Example(nn.Module):
    """PyTorch's own example for MNIST (pytorch/examples), smaller: its outputs are logarithms of probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 4, 3, 1), nn.Conv2d(4, 6, 3, 1)
        self.dropout1, self.dropout2 = nn.Dropout(0.25), nn.Dropout(0.5)
        self.fc1, self.fc2 = nn.Linear(54, 9), nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv2(F.relu(self.conv1(x))))
        x = torch.flatten(self.dropout1(F.max_pool2d(x, 2)), 1)
        x = self.dropout2(F.relu(self.fc1(x)))
        return F.log_softmax(self.fc2(x), dim=1)


class Pooled(nn.Module):
    """Attention that pools: every place of a series has a share, and experts have shares that depend on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.score = nn.Linear(3, 6), nn.Linear(6, 1)
        self.gate, self.experts, self.head = nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.features(x))
        x = (self.score(x).softmax(dim=1) * x).sum(1)
        return self.head(F.softmax(self.gate(x), dim=-1, dtype=torch.float32) * self.experts(x)).log_softmax(-1)


class Unrolled(nn.Module):
    """Blocks that share their weights: a residual one over images, then a dense one with norms of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.step, self.norm = nn.Conv2d(1, 6, 3, 2, 1), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.slope, self.wide, self.again = nn.PReLU(), nn.Linear(6, 8), nn.Linear(8, 8)
        self.norms, self.out = nn.ModuleList(nn.BatchNorm1d(8) for _ in range(2)), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.slope(self.stem(x))
        for _ in range(3):
            x = x + F.relu(self.norm(self.step(x)))
        x = torch.tanh(self.wide(x.mean((2, 3))))
        for norm in self.norms:
            x = self.slope(norm(self.again(x)))
        return self.out(self.again(x))


class Twins(nn.Module):
    """Both halves of the input go through one encoder, and what it makes of them is compared (a siamese network)."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 7))
        self.compare = nn.Sequential(nn.ReLU(), nn.Linear(14, 5), nn.Tanh(), nn.Linear(5, 3))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.encoder(x[:, :1]), self.encoder(x[:, 1:])
        return self.compare(torch.cat([first * second, (first - second) ** 2], 1))


class SharedLayers(nn.Module):
    """One layer of a transformer in all its places (ALBERT, Lan et al. 2020), then an LSTM that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.layer = nn.Embedding(7, 8), nn.TransformerEncoderLayer(8, 2, 12, 0.0, batch_first=True)
        self.again, self.head = nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.layer(self.layer(self.tokens(tokens.long())))
        x, _ = self.again(x)
        x, _ = self.again(x)
        return self.head(x[:, -1])


class Experts(nn.Module):
    """A mixture of experts, whose results are stacked and weighed by a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.experts = nn.Linear(6, 3), nn.ModuleList(nn.Linear(6, 5) for _ in range(3))
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        shares = F.softmax(self.gate(x), -1)
        results = torch.stack([expert(x) for expert in self.experts], 1)
        return self.head((shares.unsqueeze(-1) * results).sum(1))


class Standardised(nn.Module):
    """Inputs less the data's mean by its deviation, in buffers, and a mask of hidden units; (n, channels, places)."""

    mean: Tensor
    deviation: Tensor
    mask: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([[0.3], [-1.2]]))
        self.register_buffer("deviation", torch.tensor([[2.0], [0.7]]))
        self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0, 0.5]))
        self.conv, self.hidden, self.head = nn.Conv1d(2, 4, 3), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = (x - self.mean) / self.deviation
        x = torch.tanh(self.hidden(torch.relu(self.conv(x)).mean(2)))
        return self.head(self.mask * (self.mask - x))


class Price(nn.Module):
    """A regression that returns a number for each example, as many do: `squeeze` at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(6, 8), nn.Linear(8, 1)

    def forward(self, x: Tensor, scale: float | None = None) -> Tensor:
        x = torch.tanh(self.fc1(x))
        return self.fc2(x if scale is None else scale * x).squeeze(-1)


class ReZero(nn.Module):
    """Residual branches with one learned factor each, over channels, over the last axis and over a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 5, 3, padding=1)
        self.last, self.wide, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.factor, self.share = nn.Parameter(torch.tensor(0.5)), nn.Parameter(torch.full((1,), 0.7))
        self.temperature = nn.Parameter(torch.ones(1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.factor * torch.relu(self.branch(x))
        y = x.permute(0, 2, 3, 1)
        y = y + torch.tanh(self.last(y)) * self.share
        y = y.mean((1, 2))
        return self.head(y - self.factor * self.wide(y)) * self.temperature


class Focus(nn.Module):
    """Gates of channels, then of places (CBAM, Woo et al. 2018), of both at once (BAM), of rows and of columns
    (coordinate attention), and one for a whole vector.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body, self.head = nn.Conv2d(2, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 4)
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(6, 3), nn.ReLU(), nn.Linear(3, 6))
        self.places, self.few, self.where = nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(6, 2, 1), nn.Conv2d(2, 1, 1)
        self.hidden, self.share, self.skip = nn.Linear(6, 6), nn.Linear(6, 1), nn.Linear(6, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        each = self.mlp(F.adaptive_avg_pool2d(x, 1)) + self.mlp(F.adaptive_max_pool2d(x, 1))
        x = x * torch.sigmoid(each).unsqueeze(2).unsqueeze(3)
        seen = torch.cat([x.mean(1, keepdim=True), torch.max(x, dim=1, keepdim=True)[0]], dim=1)
        x = x * torch.sigmoid(self.places(seen))
        x = F.relu(self.body(x))
        both = torch.sigmoid(each[:, :, None, None] + self.where(F.relu(self.few(x))))
        x = x * torch.sigmoid(x.mean(2, True)) * torch.sigmoid(x.mean(3, True)) + both * x
        x = x.mean((2, 3))
        share = torch.sigmoid(self.share(x))
        return self.head(share * torch.tanh(self.hidden(x)) + (1 - share) * x) + self.skip(x)


class Scalars(nn.Module):
    """Learned numbers beside layers: terms (Fixup, Zhang et al. 2019), shares, temperatures, logarithms of factors."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.branch, self.wide = (
            nn.Conv2d(2, 5, 3),
            nn.Conv2d(5, 5, 3, padding=1, bias=False),
            nn.Linear(5, 6),
        )
        self.before, self.behind = nn.Parameter(torch.tensor(0.2)), nn.Parameter(torch.zeros(1))
        self.each, self.share = nn.Parameter(torch.zeros(1, 5, 1, 1)), nn.Parameter(torch.tensor(0.3))
        self.more, self.logarithm = nn.Parameter(torch.zeros(6)), nn.Parameter(torch.tensor(0.5))
        self.head, self.temperature = nn.Linear(6, 3), nn.Parameter(torch.full((1,), 1.5))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x)) + self.each
        share = torch.sigmoid(self.share)
        y = torch.relu(self.branch(x + self.before) - self.behind)
        x = share * x + (1 - share) * y
        y = torch.tanh(self.wide(x.permute(0, 2, 3, 1))) * (1 + self.more).view(1, 1, 1, -1)
        y = self.before - y.mean((1, 2)) * self.logarithm.exp()
        return self.head(torch.tanh(y) / F.softplus(self.behind)) / self.temperature


class Asked(nn.Module):
    """Learned queries attend to all places, then a class token to these, by sums over letters (CaiT)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.queries = nn.Linear(4, 8), nn.Parameter(torch.zeros(1, 3, 8))
        self.pool, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.token, self.temperature = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.tensor(1.5))
        self.q, self.k, self.v = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(8, 4)
        self.again, self.head = nn.MultiheadAttention(8, 4), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.first(x))
        x = x[:, :3] + self.pool(self.queries.expand(len(x), -1, -1), x, x, need_weights=False)[0]
        x = self.norm(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        q, k, v = self.q(x[:, 0]).view(-1, 1, 2, 3), self.k(x).view(-1, 4, 2, 3), self.v(x).view(-1, 4, 2, 2)
        shares = (torch.einsum("bqhd,bkhd->bhqk", q, k) / self.temperature).softmax(-1)
        found = torch.einsum("bhqk,bkhd->bqhd", shares, v).flatten(1)
        turned = x.transpose(0, 1)
        return self.head(torch.cat([found, self.again(turned[:2], turned, turned)[0].transpose(0, 1).mean(1)], 1))


class Shortcuts(nn.Module):
    """A ResNet whose shortcuts have no weights: every second pixel, zeros for new channels (He et al. 2016, A)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(2, 3, 3, padding=1), nn.Conv2d(8, 1, 1), nn.Linear(8, 3)
        sizes = ((3, 3, 1), (3, 8, 2), (8, 8, 1))
        self.convs = nn.ModuleList(nn.Conv2d(few, many, 3, step, 1, bias=False) for few, many, step in sizes)
        self.norms = nn.ModuleList(nn.BatchNorm2d(many) for _, many, _ in sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for conv, norm in zip(self.convs, self.norms, strict=True):
            y = norm(conv(x))
            if x.shape != y.shape:
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 4), "constant", 0)
            x = F.relu(y + x)
        x = x * torch.sigmoid(self.gate(x)).expand_as(x)
        return self.head(torch.abs(x.mean((2, 3)) - x.amax((2, 3))))


class WrittenNorms(nn.Module):
    """Norms by hand: over channels as in ConvNeXt, the mean square as in Llama, features of length one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.wide, self.head = nn.Conv2d(2, 6, 3), nn.Linear(6, 8), nn.Linear(8, 3, bias=False)
        self.weight, self.bias = nn.Parameter(torch.ones(6)), nn.Parameter(torch.zeros(6))
        self.gain, self.scale = nn.Parameter(torch.ones(8)), nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        x = self.weight[:, None, None] * ((x - mean) / torch.sqrt(variance + 1e-3)) + self.bias[:, None, None]
        x = self.wide(F.gelu(x).permute(0, 2, 3, 1))
        x = (x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-3)).type_as(x) * self.gain
        return self.head(F.normalize(x.mean((1, 2)), dim=-1)) * self.scale.exp()


# factories, and the shape of one example
SMALL: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mobile": (mobile, (3, 9, 8)),
    "unet": (UNet, (2, 8, 12)),
    "dense": (Dense, (3, 6, 7)),
    "inception": (Inception, (3, 12, 13)),
    "series": (Series, (2, 16)),
    "filter": (Filter, (3, 9)),
    "normalised": (Normalised, (6,)),
    "gated": (Gated, (6,)),
    "framed": (Framed, (2, 7, 8)),
    "encoder": (Encoder, (4, 5)),
    "vision": (vision, (3, 8, 8)),
    "channels last": (ChannelsLast, (2, 8, 6)),
    "mixer": (Mixer, (6, 4)),
    "gpt": (SmallGPT, (6,)),
    "shared tokens": (TiedGPT, (6,)),
    "reader": (Reader, (6, 5)),
    "elman": (Elman, (3, 7)),
    "tutorial": (Tutorial, (1, 16, 16)),
    "excited": (Excited, (2, 6, 5)),
    "finer": (Finer, (1, 5, 6)),
    "points": (Points, (3, 9)),
    "example": (Example, (1, 10, 10)),
    "pooled": (Pooled, (7, 3)),
    "unrolled": (Unrolled, (1, 9, 8)),
    "twins": (Twins, (2, 6, 6)),
    "standardised": (Standardised, (2, 8)),
    "price": (Price, (6,)),
    "experts": (Experts, (6,)),
    "shared layers": (SharedLayers, (5,)),
    "rezero": (ReZero, (2, 6, 5)),
    "focus": (Focus, (2, 6, 5)),
    "asked": (Asked, (5, 4)),
    "written norms": (WrittenNorms, (2, 6, 5)),
    "shortcuts": (Shortcuts, (2, 7, 6)),
    "scalars": (Scalars, (2, 6, 5)),
}
