"""Later layers denser."""

from pffdst.core.model import Entry
from pffdst.methods.allocation import Allocation


class ByDepth(Allocation):
    def densities(self, layers: tuple[Entry, ...], density: float) -> list[float]:
        share = [1 + i for i in range(len(layers))]
        scale = density * sum(e.size for e in layers) / sum(s * e.size for s, e in zip(share, layers, strict=True))
        return [min(1.0, scale * s) for s in share]
