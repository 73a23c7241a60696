"""The shipped networks are those of the papers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pffdst.core.flat import layout_of
from pffdst.models.cnn import SmallCNN
from pffdst.models.lenet import LeNet, max_pool
from pffdst.models.resnet import BasicBlock, ResNet18

NETWORKS = [SmallCNN, LeNet, ResNet18]


def test_lenet_has_the_papers_weights() -> None:
    layout = layout_of(LeNet(3, 32, 10))
    assert layout.maskable == 781_770
    assert [e.shape for e in layout.layers] == [(6, 3, 5, 5), (16, 6, 5, 5), (120, 6400), (84, 120), (10, 84)]


def test_lenet_is_convolution_relu_max_pool_of_three_by_one() -> None:
    net = LeNet(3, 32, 10)
    x = torch.randn(2, 3, 32, 32)
    y = F.max_pool2d(F.relu(net.conv1(x)), 3, stride=1)
    y = F.max_pool2d(F.relu(net.conv2(y)), 3, stride=1).flatten(1)
    y = net.fc3(F.relu(net.fc2(F.relu(net.fc1(y)))))
    assert torch.equal(net(x), y)


@pytest.mark.parametrize("channels", [3, 6, 8, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_pooling_filled_up_channels_is_pooling_to_the_bit(channels: int, layout: torch.memory_format) -> None:
    """Also where several of a window's values are the largest: of them the first gets the gradient."""
    drawn = torch.randint(-2, 3, (4, channels, 9, 9)).float().to(memory_format=layout)
    ours, torchs = drawn.clone().requires_grad_(), drawn.clone().requires_grad_()
    out, expected = max_pool(ours), F.max_pool2d(torchs, 3, stride=1)
    weights = torch.randn(expected.shape)
    (out * weights).sum().backward()
    (expected * weights).sum().backward()
    assert ours.grad is not None
    assert torchs.grad is not None
    assert torch.equal(out, expected)
    assert torch.equal(ours.grad, torchs.grad)


def test_resnet18_has_the_published_number_of_parameters() -> None:
    layout = layout_of(ResNet18(3, 32, 10))
    assert layout.parameters == 11_173_962
    assert round(layout.parameters / 1e6, 2) == 11.17
    assert len(layout.layers) == 21


def test_resnet18_has_the_cifar_stem() -> None:
    net = ResNet18(3, 32, 10)
    assert (net.conv1.kernel_size, net.conv1.stride, net.conv1.padding) == ((3, 3), (1, 1), (1, 1))
    assert not any(isinstance(m, nn.MaxPool2d) for m in net.modules())
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Conv2d))
    seen: list[torch.Size] = []
    net.stages[3].register_forward_hook(lambda m, i, o: seen.append(o.shape))
    net.eval()(torch.zeros(1, 3, 32, 32))
    assert seen == [torch.Size((1, 512, 4, 4))]


@pytest.mark.parametrize(("n_in", "stride"), [(4, 1), (2, 2)])
def test_a_residual_block_is_its_formula(n_in: int, stride: int) -> None:
    block, x = BasicBlock(n_in, 4, stride).eval(), torch.randn(3, n_in, 6, 6)
    y = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
    assert torch.allclose(block(x.clone()), torch.relu(y + block.shortcut(x)))


@pytest.mark.parametrize("make", NETWORKS)
@pytest.mark.parametrize("classes", [2, 10])
def test_logits_come_out_whatever_the_size(make: Any, classes: int) -> None:
    for size in (make.min_size, make.min_size + 3):
        net = make(channels=1, size=size, classes=classes).eval()
        logits = net(torch.randn(3, 1, size, size) * 5)
        assert logits.shape == (3, classes)
        assert not torch.allclose(logits.exp().sum(1), torch.ones(3))
        assert not torch.allclose(logits.sum(1), torch.ones(3))


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("make", [SmallCNN, LeNet])
def test_smaller_images_than_the_least_do_not_fit(make: Any) -> None:
    size = make.min_size - 1
    with pytest.raises(RuntimeError, match="size"):
        make(channels=1, size=size, classes=2)(torch.zeros(1, 1, size, size))
