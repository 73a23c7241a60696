"""Networks as people write them: each does something that a list of layer types does not foresee.

Every class takes (channels, size, classes) and images [B, channels, size, size]; `n` is their number of pixels.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.utils.checkpoint import checkpoint


class Odd(nn.Module):
    """Images in, logits out; a subclass says what it has and what it does."""

    def __init__(self, channels: int, size: int, classes: int) -> None:
        super().__init__()
        self.n = channels * size * size
        self.make(channels, size, classes)

    def make(self, channels: int, size: int, classes: int) -> None:
        raise NotImplementedError


# ---- functions instead of layers ------------------------------------------------------------------------------------


class FunctionalConv(Odd):
    def make(self, channels: int, size: int, classes: int) -> None:
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.fc = nn.Linear(4 * size * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(F.conv2d(x, self.conv.weight, self.conv.bias, padding=1)).flatten(1))


class BareParameters(Odd):
    """No layer at all: matrices on either side, one of them in a ParameterDict."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.w = nn.Parameter(torch.randn(16, self.n) / 8)
        self.more = nn.ParameterDict({"left": nn.Parameter(torch.randn(16, 16) / 4)})
        self.out = nn.Parameter(torch.randn(16, classes) / 4)
        self.shift = nn.Parameter(torch.zeros(1, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(F.linear(x.flatten(1), self.w) + self.shift)
        return torch.relu(self.more["left"] @ y.t()).t() @ self.out


class Einsum(Odd):
    """A weight of three dimensions, two of which are the input's channels and rows."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.w = nn.Parameter(torch.randn(channels, size, 6) / 3)
        self.heads = nn.Parameter(torch.randn(6, size, classes) / 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("bkw,kwo->bo", torch.einsum("bchw,chk->bkw", x, self.w).relu(), self.heads)


class Unfolded(Odd):
    """A convolution by hand."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.w = nn.Parameter(torch.randn(5, channels * 9) / 3)
        self.fc = nn.Linear(5, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((self.w @ F.unfold(x, 3)).relu().mean(2))


class BlockDiagonal(Odd):
    """One matrix for each of four blocks of features, in a batched product with a bias."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.w = nn.Parameter(torch.randn(4, self.n // 4, 8) / 4)
        self.b = nn.Parameter(torch.zeros(4, 1, 8))
        self.fc = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.baddbmm(self.b, x.view(len(x), 4, -1).transpose(0, 1), self.w)
        return self.fc(y.relu().transpose(0, 1).flatten(1))


class Joined(Odd):
    """Three matrices applied as one."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.parts = nn.ParameterList(nn.Parameter(torch.randn(k, self.n) / 8) for k in (4, 8, 4))
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.linear(x.flatten(1), torch.cat(list(self.parts))).relu())


class Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor) -> Tensor:
        ctx.save_for_backward(x, w)
        return x @ w.t()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, w = ctx.saved_tensors
        return grad @ w, grad.t() @ x


class OwnFunction(Odd):
    """A layer with a backward pass of its own."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.first, self.second = nn.Linear(self.n, 16), nn.Linear(16, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return Product.apply(F.relu(self.first(x.flatten(1))), self.second.weight)


class Fourier(Odd):
    """A complex weight kept as two real numbers."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.w = nn.Parameter(torch.randn(self.n // 2 + 1, 12, 2) / 8)
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((torch.fft.rfft(x.flatten(1), norm="ortho") @ torch.view_as_complex(self.w)).real)


# ---- shared weights ------------------------------------------------------------------------------------------------


class Tied(Odd):
    def make(self, channels: int, size: int, classes: int) -> None:
        self.a, self.b, self.fc = nn.Linear(self.n, self.n), nn.Linear(self.n, self.n), nn.Linear(self.n, classes)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.b(F.relu(self.a(x.flatten(1))))))


class TiedTransposed(Odd):
    """An autoencoder's code: the decoder is the encoder's transpose."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.encoder, self.fc = nn.Linear(self.n, 16), nn.Linear(self.n, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.linear(F.relu(self.encoder(x.flatten(1))), self.encoder.weight.t()))


class TiedToEmbedding(Odd):
    """Pixels as words; the words' embeddings are also the matrix of the layer before the last."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.words, self.fc = nn.Embedding(9, 12), nn.Linear(9, classes)
        self.mix = nn.Linear(12, 12)

    def forward(self, x: Tensor) -> Tensor:
        y = self.words((x.flatten(1) * 2).long().clamp(-4, 4) + 4).mean(1)
        return self.fc(F.linear(F.relu(self.mix(y)), self.words.weight))


class Looped(Odd):
    """One layer used four times, once under a checkpoint."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.first, self.loop, self.fc = nn.Linear(self.n, 12), nn.Linear(12, 12), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x.flatten(1))
        for _ in range(3):
            y = torch.tanh(self.loop(y))
        return self.fc(checkpoint(self.loop, y, use_reentrant=False))


class ReentrantCheckpoint(Odd):
    def make(self, channels: int, size: int, classes: int) -> None:
        self.first = nn.Conv2d(channels, 4, 3)
        self.block = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(checkpoint(self.block, self.first(x), use_reentrant=True).mean((2, 3)))


# ---- attention and recurrence ----------------------------------------------------------------------------------------


class Attention(Odd):
    """Rows of the image attend to each other."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.attention = nn.MultiheadAttention(channels * size, 2, batch_first=True)
        self.fc = nn.Linear(channels * size, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        return self.fc(self.attention(rows, rows, rows)[0].mean(1))


class CrossAttention(Odd):
    """Learned queries (latents) over keys and values of other widths."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.latents = nn.Parameter(torch.randn(1, 3, 6))
        self.attention = nn.MultiheadAttention(6, 2, kdim=channels * size, vdim=channels * size, batch_first=True)
        self.fc = nn.Linear(18, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        return self.fc(self.attention(self.latents.expand(len(x), -1, -1), rows, rows)[0].flatten(1))


class Transformer(Odd):
    """torch's own encoder with a class token and learned positions."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.patch = nn.Linear(channels * size, 16)
        self.token, self.places = nn.Parameter(torch.zeros(1, 1, 16)), nn.Parameter(torch.randn(1, size + 1, 16) / 8)
        layer = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.patch(x.transpose(1, 2).flatten(2))
        rows = torch.cat([self.token.expand(len(x), -1, -1), rows], 1) + self.places
        return self.fc(self.encoder(rows)[:, 0])


class Window(Odd):
    """Attention with a table of relative positions, by scaled_dot_product_attention."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.qkv, self.out = nn.Linear(channels * size, 24), nn.Linear(8, classes)
        self.table = nn.Parameter(torch.randn(2 * size - 1, 2) / 8)
        places = torch.arange(size)
        self.register_buffer("relative", places[:, None] - places[None] + size - 1)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.transpose(1, 2).flatten(2)
        q, k, v = self.qkv(rows).view(len(x), -1, 3, 2, 4).permute(2, 0, 3, 1, 4)
        bias = self.table[self.relative].permute(2, 0, 1)
        return self.out(F.scaled_dot_product_attention(q, k, v, bias[None]).transpose(1, 2).flatten(2).mean(1))


class Recurrent(Odd):
    kind: ClassVar[Callable[[int], nn.Module]]

    def make(self, channels: int, size: int, classes: int) -> None:
        self.rnn = type(self).kind(channels * size)
        self.fc = nn.LazyLinear(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x.transpose(1, 2).flatten(2))[0][:, -1])


class LSTM(Recurrent):
    """Two layers, both directions, projected states."""

    kind = staticmethod(lambda k: nn.LSTM(k, 8, 2, batch_first=True, bidirectional=True, proj_size=5))  # type: ignore[assignment]


class GRU(Recurrent):
    kind = staticmethod(lambda k: nn.GRU(k, 8, 2, batch_first=True, dropout=0.2))  # type: ignore[assignment]


class Cell(Odd):
    """A recurrent cell stepped by hand."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.cell, self.fc = nn.LSTMCell(channels * size, 8), nn.Linear(8, classes)

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for row in x.transpose(1, 2).flatten(2).unbind(1):
            state = self.cell(row, state)
        return self.fc(state[0])


# ---- convolutions of all kinds ---------------------------------------------------------------------------------------


class Transposed(Odd):
    """Up again by transposed convolutions, with groups and without."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.down = nn.Conv2d(channels, 4, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.again = nn.ConvTranspose2d(6, 4, 3, groups=2)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.again(F.relu(self.up(F.relu(self.down(x))))).mean((2, 3)))


class Depthwise(Odd):
    def make(self, channels: int, size: int, classes: int) -> None:
        self.wide, self.deep = nn.Conv2d(channels, 8, 1, bias=False), nn.Conv2d(8, 8, 3, groups=8, bias=False)
        self.grouped, self.norm = nn.Conv2d(8, 4, 1, groups=2), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.hardswish(self.norm(self.grouped(self.deep(self.wide(x))))).mean((2, 3)))


class Signal(Odd):
    """Rows as a signal of one dimension."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.conv, self.up = nn.Conv1d(channels, 6, 5, padding="same"), nn.ConvTranspose1d(6, 4, 3)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.up(F.relu(self.conv(x.flatten(2)))).mean(2))


class Volume(Odd):
    """The image as a volume of one channel."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.conv, self.norm = nn.Conv3d(1, 4, (1, 3, 3)), nn.BatchNorm3d(4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.norm(self.conv(x[:, None]))).mean((2, 3, 4)))


class Branches(Odd):
    """Two layers see the image: neither has an input gradient."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.fine, self.coarse = nn.Conv2d(channels, 3, 3, padding=1), nn.Conv2d(channels, 3, 5, padding=2)
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cat([self.fine(x), self.coarse(x)], 1).relu().mean((2, 3)))


# ---- weights made of weights -----------------------------------------------------------------------------------------


class Reparametrised(Odd):
    """Two layers, the first under what `wrap` makes of it."""

    wrap: ClassVar[Callable[[nn.Module], nn.Module]]

    def make(self, channels: int, size: int, classes: int) -> None:
        self.conv = type(self).wrap(nn.Conv2d(channels, 4, 3))
        self.fc = nn.Linear(4 * (size - 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.conv(x)).flatten(1))


class Pruned(Reparametrised):
    wrap = staticmethod(lambda m: prune.l1_unstructured(m, "weight", 0.3))  # type: ignore[assignment]


class WeightNorm(Reparametrised):
    wrap = staticmethod(parametrizations.weight_norm)  # type: ignore[assignment]


class SpectralNorm(Reparametrised):
    wrap = staticmethod(parametrizations.spectral_norm)  # type: ignore[assignment]


class Orthogonal(Reparametrised):
    wrap = staticmethod(parametrizations.orthogonal)  # type: ignore[assignment]


class Squash(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return torch.tanh(w) * 2


class OwnParametrisation(Reparametrised):
    @staticmethod
    def wrap(module: nn.Module) -> nn.Module:
        parametrize.register_parametrization(module, "weight", Squash())
        return module


class StandardisedConv(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        w = self.weight
        return self._conv_forward(x, (w - w.mean((1, 2, 3), keepdim=True)) / w.std((1, 2, 3), keepdim=True), self.bias)


class Standardised(Reparametrised):
    """Weight standardisation: what is 0 does not stay 0."""

    @staticmethod
    def wrap(module: nn.Module) -> nn.Module:
        return StandardisedConv(module.in_channels, module.out_channels, 3)


class MaskedLinear(nn.Linear):
    """A layer that may not see everything (MADE), and drops weights while it trains (DropConnect)."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(n_in, n_out)
        self.register_buffer("seen", torch.ones(n_out, n_in).tril())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, F.dropout(self.weight, 0.1, self.training) * self.seen, self.bias)


class Masked(Odd):
    def make(self, channels: int, size: int, classes: int) -> None:
        self.first, self.fc = MaskedLinear(self.n, 16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.first(x.flatten(1))))


class Cosine(Odd):
    """A classifier by angle: features and weights of length 1."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.fc, self.w = nn.Linear(self.n, 16), nn.Parameter(torch.randn(classes, 16))

    def forward(self, x: Tensor) -> Tensor:
        return 4 * F.linear(F.normalize(F.relu(self.fc(x.flatten(1)))), F.normalize(self.w))


class LowRank(Odd):
    """A fixed matrix and a trained correction of rank 2 (LoRA, merged)."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.base = nn.Linear(self.n, 16)
        self.base.weight.requires_grad_(False)
        self.a, self.b = nn.Parameter(torch.randn(16, 2) / 8), nn.Parameter(torch.randn(2, self.n) / 8)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.linear(x.flatten(1), self.base.weight + self.a @ self.b, self.base.bias).relu())


class Hyper(Odd):
    """A layer whose matrix another layer makes of a learned code."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.code, self.maker = nn.Parameter(torch.randn(1, 4)), nn.Linear(4, 16 * classes)
        self.first, self.classes = nn.Linear(self.n, 16), classes

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.first(x.flatten(1))) @ self.maker(self.code).view(16, self.classes)


# ---- parts that do not always run ------------------------------------------------------------------------------------


class FixedFeatures(Odd):
    def make(self, channels: int, size: int, classes: int) -> None:
        self.features = nn.Conv2d(channels, 6, 3).requires_grad_(False)
        self.fc = nn.Linear(6 * (size - 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.features(x)).flatten(1))


class WholeNumber(Odd):
    """Its first parameter is an integer, and does not train."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.levels = nn.Parameter(torch.tensor(15), requires_grad=False)
        self.fc = nn.Linear(self.n, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc((x.flatten(1) * self.levels).round() / self.levels)


class Detached(Odd):
    """Features under no_grad, whose parameters nobody froze."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.features, self.fc = nn.Conv2d(channels, 6, 3), nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = F.relu(self.features(x))
        return self.fc(y.mean((2, 3)))


class Unused(Odd):
    """A head left over from another task."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.fc, self.old = nn.Linear(self.n, classes), nn.Linear(self.n, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1))


class Auxiliary(Odd):
    """A head that takes part in training alone."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.first, self.fc, self.aux = nn.Linear(self.n, 16), nn.Linear(16, classes), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x.flatten(1)))
        return self.fc(y) + 0.3 * self.aux(y) if self.training else self.fc(y)


class LayerDrop(Odd):
    """Residual layers that are left out by chance."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.layers = nn.ModuleList(nn.Linear(self.n, self.n) for _ in range(3))
        self.fc = nn.Linear(self.n, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1)
        for layer in self.layers:
            if not self.training or random.random() < 0.6:
                y = y + torch.tanh(layer(y))
        return self.fc(y)


class Experts(Odd):
    """Each sample goes to one of two experts."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.gate = nn.Linear(self.n, 2)
        self.experts = nn.ModuleList(nn.Linear(self.n, classes) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        y = x.flatten(1)
        p, chosen = self.gate(y).softmax(1).max(1)
        out = y.new_zeros(len(y), self.experts[0].out_features)
        for k, expert in enumerate(self.experts):
            at = chosen == k
            if bool(at.any()):
                out[at] = expert(y[at])
        return out * p[:, None]


# ---- state ---------------------------------------------------------------------------------------------------------


class Permuted(Odd):
    """A drawn order of the pixels, in an integer buffer, and a boolean one of those that are seen."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.register_buffer("perm", torch.randperm(self.n))
        self.register_buffer("seen", torch.rand(self.n) < 0.9)
        self.fc = nn.Linear(self.n, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(1)[:, self.perm] * self.seen)


class Counting(Odd):
    """Normalisation that counts its batches because it needs to, beside one that does not."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.first, self.second = nn.BatchNorm2d(channels, momentum=None), nn.BatchNorm1d(self.n)
        self.fc = nn.Linear(self.n, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.second(self.first(x).flatten(1)))


class Drawn(Odd):
    """Weights and structure from numpy's and Python's generators, noise on the way."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.w = nn.Parameter(torch.from_numpy(np.random.standard_normal((16, self.n)).astype(np.float32) / 8))  # noqa: NPY002
        self.at = random.sample(range(16), 12)
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.dropout(F.linear(x.flatten(1), self.w)[:, self.at].relu(), 0.5, self.training))


class Lazy(Odd):
    def make(self, channels: int, size: int, classes: int) -> None:
        self.body = nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten())
        self.fc = nn.LazyLinear(classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


class Double(Odd):
    def make(self, channels: int, size: int, classes: int) -> None:
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(self.n, 16), nn.BatchNorm1d(16), nn.Linear(16, classes))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class LeftOut(Odd):
    """A model that asks for a dense last layer."""

    dense: ClassVar[tuple[str, ...]] = ("fc",)

    def make(self, channels: int, size: int, classes: int) -> None:
        self.body, self.fc = nn.Linear(self.n, 16), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.body(x.flatten(1))))


class Scripted(Odd):
    """A part compiled by TorchScript."""

    def make(self, channels: int, size: int, classes: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would have us export it
            self.body = torch.jit.script(nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), nn.Flatten()))
        self.fc = nn.Linear(4 * (size - 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x))


class Compiled(Odd):
    """A part that is compiled when it first runs."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.body = torch.compile(nn.Sequential(nn.Linear(self.n, 16), nn.Tanh()), backend="eager")
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x.flatten(1)))


class Autocast(Odd):
    """Products in bfloat16, weights in float32."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.fc(self.conv(x).relu().mean((2, 3))).float()


class RandomFeatures(Odd):
    """A matrix that is a buffer."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.register_buffer("project", torch.randn(self.n, 16) / 8)
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.cos(x.flatten(1) @ self.project))


class OldWeightNorm(Reparametrised):
    """The hook that torch had before parametrisations: it keeps a tensor that cannot be copied."""

    @staticmethod
    def wrap(module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and still in use
            return nn.utils.weight_norm(module)


class Viewed(Odd):
    """`view` where samples lie as channels_last does not allow."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.conv, self.fc = nn.Conv2d(channels, 4, 3), nn.Linear(4 * (size - 2) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        return self.fc(y.view(y.size(0), -1))


class Quantised(Odd):
    """Weights rounded to three values, trained straight through."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.first, self.fc = nn.Linear(self.n, 16, bias=False), nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        w = self.first.weight
        return self.fc(F.linear(x.flatten(1), w + (w.sign() * w.abs().mean() - w).detach()).relu())


class NamedDense(Odd):
    """A layer called `dense`, as many are, and one whose product torch does not count."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.dense = nn.Linear(self.n, 16)
        self.bilinear = nn.Bilinear(16, 16, 4)
        self.fc = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.dense(x.flatten(1)))
        return self.fc(self.bilinear(y, y))


# ---- state that is no tensor, and tensors that are no state ---------------------------------------------------------


class Head(Odd):
    """A linear layer, and what a subclass does to the pixels before it."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.fc = nn.Linear(self.n, classes)
        self.more()

    def more(self) -> None:
        raise NotImplementedError

    def before(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.before(x.flatten(1)))


class CallCounter(Head):
    """A plain number that acts: the noise shrinks with every call."""

    def more(self) -> None:
        self.calls = 0

    def before(self, x: Tensor) -> Tensor:
        self.calls += self.training
        return x / (1 + 1 / (1 + self.calls))


class Generators(Head):
    """Generators of its own, of three kinds."""

    def more(self) -> None:
        self.draws = torch.Generator().manual_seed(5), np.random.default_rng(6), random.Random(7)

    def before(self, x: Tensor) -> Tensor:
        torchs, numpys, pythons = self.draws
        noise = torch.rand(x.shape, generator=torchs, dtype=x.dtype) + float(numpys.random()) + pythons.random()
        return x + 0.1 * noise if self.training else x


class Rebound(Head):
    """Buffers that a new tensor is put in the place of."""

    def more(self) -> None:
        self.register_buffer("steps", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(self.n))

    def before(self, x: Tensor) -> Tensor:
        if self.training:
            self.steps = self.steps + 1
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean(0)
        return (x - self.mean) / (1 + 1 / (1 + self.steps))


class Remembering(Head):
    """What the batches before left in a list, and the last features with their graph."""

    def more(self) -> None:
        self.seen: list[Tensor] = []
        self.last: Tensor | None = None

    def before(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        y = x * (1 + self.fc.weight.sum() * 1e-3)
        self.seen.append(x.detach().mean(0))
        shift = torch.stack(self.seen[-3:]).mean(0)
        if self.last is not None:
            shift = shift + self.last.detach().mean(0)
        self.last = y
        return y - 0.1 * shift


class Switching(Head):
    """A boolean buffer that a batch switches, and one that fills up."""

    def more(self) -> None:
        self.register_buffer("warm", torch.tensor(False))
        self.register_buffer("met", torch.zeros(self.n, dtype=torch.bool))

    def before(self, x: Tensor) -> Tensor:
        if self.training:
            self.met |= (x > 1.5).any(0)
            self.warm.fill_(self.met.sum() > self.n // 4)
        return x * self.met if bool(self.warm) else x


class Histogram(Head):
    """Counts of pixels in small integers, and a complex phase."""

    def more(self) -> None:
        self.register_buffer("counts", torch.zeros(4, dtype=torch.int16))
        self.register_buffer("phase", torch.polar(torch.ones(self.n), torch.linspace(0, 1, self.n)))

    def before(self, x: Tensor) -> Tensor:
        if self.training:
            self.counts += torch.histc(x.detach().float(), 4, -2, 2).to(torch.int16)
        return (x * self.phase).real + self.counts.to(x.dtype).softmax(0)[0]


class NotPersistent(Head):
    """A drawn order in a buffer that is no part of a state dict, and tied weights."""

    def more(self) -> None:
        self.register_buffer("perm", torch.randperm(self.n), persistent=False)
        self.one, self.two = nn.Linear(self.n, self.n), nn.Linear(self.n, self.n)
        self.two.weight = self.one.weight

    def before(self, x: Tensor) -> Tensor:
        return self.two(self.one(x[:, self.perm]).relu()).relu()


class Thawing(Head):
    """A layer that begins to train at the third step."""

    def more(self) -> None:
        self.body, self.calls = nn.Linear(self.n, self.n), 0

    def before(self, x: Tensor) -> Tensor:
        self.body.requires_grad_(self.calls == 0 or self.calls > 2)
        self.calls += 1
        return self.body(x).relu()


class DataInit(Head):
    """Scale and shift from the first batch (as in Glow), which a boolean buffer remembers."""

    def more(self) -> None:
        self.register_buffer("made", torch.tensor(False))
        self.scale, self.shift = nn.Parameter(torch.ones(self.n)), nn.Parameter(torch.zeros(self.n))

    def before(self, x: Tensor) -> Tensor:
        if self.training and not bool(self.made):
            self.scale.data, self.shift.data = 1 / (x.std(0) + 1), x.mean(0)
            self.made.fill_(True)
        return (x - self.shift) * self.scale


class GradientHook(Head):
    """A hook on a parameter's gradient, and one on a layer, which is a method."""

    def more(self) -> None:
        self.body = nn.Linear(self.n, 16)
        self.out = nn.Linear(16, self.n)
        self.body.weight.register_hook(_halved)
        self.body.register_forward_hook(self.scaled)

    def scaled(self, layer: nn.Module, given: Any, y: Tensor) -> Tensor:
        return y * self.out.weight.abs().mean()

    def before(self, x: Tensor) -> Tensor:
        return self.out(self.body(x).relu())


def _halved(gradient: Tensor) -> Tensor:
    return gradient / 2


class Clamped(Head):
    """Weights that the forward pass keeps small."""

    def more(self) -> None:
        self.body = nn.Linear(self.n, 16)
        self.out = nn.Linear(16, self.n)

    def before(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.body.weight.clamp_(-0.2, 0.2)
        return self.out(self.body(x).relu())


class MaxNorm(Odd):
    """Pixels as words, whose embeddings the forward pass keeps short."""

    def make(self, channels: int, size: int, classes: int) -> None:
        self.words, self.fc = nn.Embedding(9, 12, max_norm=1.0), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.words((x.flatten(1) * 2).long().clamp(-4, 4) + 4).mean(1))


class Damped(nn.Module):
    """A layer whose output grows with the batches it has seen."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("met", torch.tensor(0))
        self.fc = nn.Linear(n, 16)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.met += 1
        return self.fc(x) * (1 - 1 / (2 + self.met))


class ScriptedCounter(Odd):
    """A counter that acts, compiled by TorchScript."""

    def make(self, channels: int, size: int, classes: int) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would have us export it
            self.body = torch.jit.script(Damped(self.n))
        self.fc = nn.Linear(16, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.body(x.flatten(1)).relu())


@dataclass(frozen=True)
class Animal:
    """A network and what is to be found in it.

    `maskable` by name, None for all parameters of two or more dimensions; `constants` never train; `mixed` parameters
    enter products without their zeros; of `blocked` ones the network multiplies so many weights by 0 (at 3 x 8 x 8
    pixels); `idle` ones get no gradient. `chance`: what runs is drawn. `settings` are those that a run of it needs.
    """

    make: Callable[[int, int, int], nn.Module]
    maskable: tuple[str, ...] | None = None
    blocked: tuple[tuple[str, int], ...] = ()
    idle: tuple[str, ...] = ()
    constants: tuple[str, ...] = ()
    mixed: tuple[str, ...] = ()
    buffers: tuple[str, ...] = ()
    chance: bool = False
    settings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return getattr(self.make, "__name__", "?")


ZOO = [
    Animal(FunctionalConv),
    Animal(BareParameters, ("more.left", "out", "w")),
    Animal(Einsum),
    Animal(Unfolded),
    Animal(BlockDiagonal, ("w", "fc.weight")),
    Animal(Joined),
    Animal(OwnFunction),
    Animal(Fourier),
    Animal(Tied),
    Animal(TiedTransposed),
    Animal(TiedToEmbedding, ("fc.weight", "mix.weight")),
    Animal(Looped),
    Animal(ReentrantCheckpoint),
    Animal(Attention),
    Animal(
        CrossAttention,
        (*(f"attention.{n}_weight" for n in ("q_proj", "k_proj", "v_proj")), "attention.out_proj.weight", "fc.weight"),
    ),
    Animal(
        Transformer,
        (
            "patch.weight",
            "fc.weight",
            *(f"encoder.layers.{i}.self_attn.{n}" for i in range(2) for n in ("in_proj_weight", "out_proj.weight")),
            *(f"encoder.layers.{i}.linear{k}.weight" for i in range(2) for k in (1, 2)),
        ),
    ),
    Animal(Window, ("qkv.weight", "out.weight"), buffers=("relative",)),
    Animal(LSTM),
    Animal(GRU),
    Animal(Cell),
    Animal(Transposed),
    Animal(Depthwise),
    Animal(Signal),
    Animal(Volume),
    Animal(Branches),
    Animal(Pruned, blocked=(("conv.weight_orig", 32),)),
    Animal(WeightNorm, ("conv.parametrizations.weight.original1", "fc.weight")),
    Animal(SpectralNorm),
    Animal(Orthogonal, ("fc.weight",), mixed=("conv.parametrizations.weight.original",)),
    Animal(OwnParametrisation),
    Animal(Standardised, ("fc.weight",), mixed=("conv.weight",)),
    Animal(Masked, blocked=(("first.weight", 16 * 192 - 136),)),
    Animal(Cosine),
    Animal(LowRank, ("b", "fc.weight"), constants=("base.weight",), mixed=("a", "b", "base.weight")),
    Animal(Hyper, ("maker.weight", "first.weight"), mixed=("code", "maker.weight", "maker.bias")),
    Animal(FixedFeatures, ("fc.weight",), constants=("features.weight", "features.bias")),
    Animal(Detached, ("fc.weight",), idle=("features.weight", "features.bias")),
    Animal(Unused, ("fc.weight",), idle=("old.weight", "old.bias")),
    Animal(Auxiliary),
    Animal(LayerDrop, chance=True),
    Animal(Experts, chance=True),
    Animal(Permuted, buffers=("perm", "seen")),
    Animal(Counting, buffers=("first.num_batches_tracked",)),
    Animal(Drawn),
    Animal(Lazy),
    Animal(Double),
    Animal(LeftOut, ("body.weight",)),
    Animal(NamedDense, ("dense.weight", "fc.weight")),
    Animal(Scripted),
    Animal(Compiled),
    Animal(Autocast),
    Animal(RandomFeatures, ("fc.weight",), buffers=()),
    Animal(OldWeightNorm, ("conv.weight_v", "fc.weight")),
    Animal(Viewed),
    Animal(Quantised, ("fc.weight",), mixed=("first.weight",)),
    Animal(CallCounter),
    Animal(Generators),
    Animal(Rebound, buffers=("steps",)),
    Animal(Remembering),
    Animal(Switching, buffers=("warm", "met")),
    Animal(Histogram, buffers=("counts", "phase")),
    Animal(NotPersistent, buffers=("perm",)),
    Animal(Thawing),
    Animal(DataInit, buffers=("made",)),
    Animal(GradientHook),
    Animal(ScriptedCounter, buffers=("body.met",)),
    Animal(MaxNorm, ("fc.weight",)),
    Animal(Clamped, settings=("freeze=none",)),
]


# ---- what people take as it is --------------------------------------------------------------------------------------

CLASSES = 10
models = torchvision.models
# Those with stages of many layers are made shorter; their kinds of layers are all there.
TORCHVISION: dict[str, Callable[[], nn.Module]] = {
    "squeezenet1_1": lambda: models.squeezenet1_1(num_classes=CLASSES),
    "mobilenet_v3_small": lambda: models.mobilenet_v3_small(num_classes=CLASSES),
    "shufflenet_v2_x0_5": lambda: models.shufflenet_v2_x0_5(num_classes=CLASSES),
    "resnet18": lambda: models.resnet18(num_classes=CLASSES),
    "densenet": lambda: models.DenseNet(16, (2, 3), 32, num_classes=CLASSES),
    "regnet_y_400mf": lambda: models.regnet_y_400mf(num_classes=CLASSES),
    "efficientnet_b0": lambda: models.efficientnet_b0(num_classes=CLASSES),
    "mnasnet0_5": lambda: models.mnasnet0_5(num_classes=CLASSES),
    "googlenet": lambda: models.googlenet(num_classes=CLASSES, aux_logits=False, init_weights=False),
    "convnext": lambda: models.ConvNeXt(
        [models.convnext.CNBlockConfig(32, 64, 2), models.convnext.CNBlockConfig(64, None, 2)], num_classes=CLASSES
    ),
    "vision transformer": lambda: models.VisionTransformer(32, 8, 2, 4, 64, 128, dropout=0.1, num_classes=CLASSES),
    "swin transformer": lambda: models.SwinTransformer([4, 4], 32, [2, 2], [2, 4], [4, 4], num_classes=CLASSES),
}


def classifier(name: str, channels: int, size: int, classes: int) -> nn.Module:
    """One of torchvision's, as a configuration would name it."""
    assert (channels, classes) == (3, CLASSES)
    return TORCHVISION[name]()
