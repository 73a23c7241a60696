"""A network with draws and a counter of its own."""

from torch import Tensor, nn


class Wide(nn.Module):
    def __init__(self, channels: int, size: int, classes: int, dropout: float = 0.3) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1),
            nn.BatchNorm2d(8, momentum=None),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(8 * size * size, 24),
            nn.Dropout(dropout),
            nn.ReLU(),
            nn.Linear(24, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)
