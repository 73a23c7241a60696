"""One scale and a sign for each value, drawn so that the mean is right."""

import numpy as np
import torch

from pffdst.wire.codecs.base import ValueCodec, added_to, change_of, generator


class Sign(ValueCodec):
    formats = (10,)

    def write(self, values, base, seed):
        change = change_of(values, base)
        scale = float(change.abs().max()) if change.numel() else 0.0
        up = torch.rand(change.shape, generator=generator(seed)) * 2 - 1 < change / (scale or 1.0)
        return 10, np.float32(scale).tobytes(), [np.packbits(up.numpy())]

    def head_bytes(self, form):
        return 4

    def planes(self, form, head, count):
        return [(count + 7) // 8]

    def read(self, form, head, planes, count, base):
        up = np.unpackbits(planes[0], count=count)
        return added_to(torch.from_numpy(np.frombuffer(head, "<f4")[0] * (2.0 * up - 1).astype(np.float32)), base)
