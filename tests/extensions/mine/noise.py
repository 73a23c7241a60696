"""Noise on the pixels."""

import torch

from pffdst.methods.local.augmentation import Augmentation


class Noise(Augmentation):
    def __call__(self, images):
        return (images.int() + torch.randint(-8, 9, images.shape).to(images.device)).clamp(0, 255).to(torch.uint8)
