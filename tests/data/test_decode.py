"""What becomes of one encoded image: upright, square, of one size, without transparency."""

import numpy as np
import pytest
import torch
from PIL import Image

from pffdst.data.dataset import DataError
from pffdst.data.sources.decode import Cells, Form, decode_all, resized


@pytest.fixture
def decoded(encode):
    def call(*pictures, form=None, **options):
        cells = [p if isinstance(p, bytes) else encode(p, **options) for p in pictures]
        stream = iter([Cells(cells, lambda index: f"image {index}")])
        return decode_all(stream, len(cells), Form() if form is None else form, "toy")

    return call


# What a viewer shows of rows that are stored under each of EXIF's orientations.
UPRIGHT = {
    1: lambda p: p,
    2: np.fliplr,
    3: lambda p: np.rot90(p, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda p: np.rot90(p, -1),
    7: lambda p: np.rot90(np.transpose(p), 2),
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_images_are_turned_as_their_exif_says(decoded, orientation, kind):
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decoded(pixels, kind=kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    assert np.array_equal(found.images[0, 0].numpy(), UPRIGHT[orientation](pixels))


def test_a_jpeg_held_sideways_is_turned(decoded):
    pixels = np.zeros((32, 16), dtype=np.uint8)
    pixels[:8] = 255  # bright at the top; orientation 6: the top is at the right when shown
    exif = Image.Exif()
    exif[0x0112] = 6
    found = decoded(pixels, kind="JPEG", exif=exif).images[0, 0]
    assert found.shape == (16, 32)
    assert int(found[:, -6:].min()) > 200
    assert int(found[:, :20].max()) < 50


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_are_white_and_counted(decoded, encode, mode, tmp_path):
    pixels = np.zeros((4, 4, 4), dtype=np.uint8)
    pixels[..., 3] = 255
    pixels[0, 0] = (10, 200, 30, 0)  # a colour that nobody sees
    image = Image.fromarray(pixels)
    image = image.quantize() if mode == "P" else image.convert(mode)
    image.save(tmp_path / "x.png")
    found = decoded((tmp_path / "x.png").read_bytes())
    assert found.transparent == 1
    assert set(found.images[0, :, 0, 0].tolist()) == {255}
    assert int(found.images[0, :, 1:].max()) == 0
    assert len(found.images[0]) == (1 if mode == "LA" else 3)


def test_half_transparent_is_half_white(decoded):
    pixels = np.full((2, 2, 4), (0, 0, 0, 128), dtype=np.uint8)
    assert decoded(pixels).images.unique().tolist() == [127]


def test_an_opaque_alpha_channel_changes_nothing(decoded):
    colour = np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    solid = np.dstack([colour, np.full((5, 5), 255, dtype=np.uint8)])
    found = decoded(solid)
    assert found.transparent == 0
    assert torch.equal(found.images, decoded(colour).images)


def test_crop_takes_the_square_in_the_middle(decoded):
    wide = np.tile(np.arange(10, dtype=np.uint8) * 20, (4, 1))
    found = decoded(wide, wide.T.copy(), form=Form(crop=True)).images
    assert found.shape == (2, 1, 4, 4)
    assert found[0, 0, 0].tolist() == found[1, 0, :, 0].tolist() == [60, 80, 100, 120]


@pytest.mark.parametrize("crop", [True, False])
def test_resize_brings_all_sizes_to_one(decoded, crop):
    pictures = [np.full(shape, 90, dtype=np.uint8) for shape in ((7, 9), (30, 5), (6, 6), (64, 64))]
    found = decoded(*pictures, form=Form(resize=6, crop=crop)).images
    assert found.shape == (4, 1, 6, 6)
    assert found.unique().tolist() == [90]


def test_resize_stretches_what_crop_does_not_cut(decoded):
    half = np.zeros((8, 16), dtype=np.uint8)
    half[:, 8:] = 200
    stretched, cut = (decoded(half, form=Form(resize=8, crop=crop)).images[0, 0, 0].tolist() for crop in (False, True))
    assert stretched[0] == cut[0] == 0
    assert stretched[-1] == cut[-1] == 200
    assert stretched != cut
    assert cut == [0] * 4 + [200] * 4


def test_sizes_that_differ_are_told_what_to_write(decoded):
    six, eight = (np.zeros((side, side), dtype=np.uint8) for side in (6, 8))
    with pytest.raises(DataError, match=r"image 1: the image is 8x8 .* first one gives 6x6; write dataset.resize=32"):
        decoded(six, eight)
    with pytest.raises(DataError, match=r"image 1: the image is 8x9 pixels"):
        decoded(six, np.zeros((9, 8), dtype=np.uint8), form=Form(crop=True))


def test_the_same_bytes_again_are_counted(decoded):
    one, two = np.zeros((4, 4), dtype=np.uint8), np.ones((4, 4), dtype=np.uint8)
    assert decoded(one, two, one, one).repeated == 2


def test_arrays_are_resized_as_encoded_images_are(decoded):
    pixels = np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8)
    for side in (8, 31):
        ours = resized(torch.from_numpy(pixels)[:, None], side).int()
        theirs = decoded(*pixels, form=Form(resize=side)).images.int()
        assert int((ours - theirs).abs().max()) <= 1
