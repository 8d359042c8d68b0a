"""Whatever lies in an image folder is used correctly, or skipped with the reason."""

import io
import os
import subprocess
import sys
import tempfile
import tracemalloc
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from course_utils import data
from course_utils.data.folder import as_rgb, picture_files, read_folder, read_picture

RED, GREEN, BLUE, WHITE = (220, 30, 20), (20, 200, 40), (30, 40, 210), (255, 255, 255)


def halves(left=RED, right=BLUE, size=(64, 64)):
    """A picture with a left and a right half."""
    picture = Image.new("RGB", size, right)
    picture.paste(left, (0, 0, size[0] // 2, size[1]))
    return picture


def corners(pixels):
    """Colours in the middle of the quarters of (3, H, W): top left, top right, bottom left, bottom right."""
    q = pixels.shape[-1] // 4
    return [tuple(int(v) for v in pixels[:, y, x]) for y in (q, -q) for x in (q, -q)]


def assert_corners(file, wanted, tolerance=0, size_px=16):
    pixels = read_picture(file, size_px)
    assert pixels.shape == (3, size_px, size_px) and pixels.dtype == np.uint8
    difference = np.abs(np.array(corners(pixels)) - np.array(wanted)).max()
    assert difference <= tolerance, (corners(pixels), wanted)


@pytest.mark.parametrize("ending", ["png", "bmp", "gif", "tif", "tiff", "webp", "jpg", "jpeg", "PNG"])
def test_common_formats(tmp_path, ending):
    file = tmp_path / f"picture.{ending}"
    halves().save(file, **({"lossless": True} if ending == "webp" else {}))
    assert_corners(file, [RED, BLUE] * 2, tolerance=6 if ending in ("jpg", "jpeg") else 0)


def test_cmyk(tmp_path):
    halves(RED, WHITE).convert("CMYK").save(tmp_path / "a.tif")
    assert_corners(tmp_path / "a.tif", [RED, WHITE] * 2, tolerance=1)
    halves(RED, WHITE).convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    assert_corners(tmp_path / "a.jpg", [RED, WHITE] * 2, tolerance=6)


def test_palette_with_and_without_transparency(tmp_path):
    picture = halves().quantize(4)
    picture.save(tmp_path / "plain.png")
    assert_corners(tmp_path / "plain.png", [RED, BLUE] * 2)
    red = picture.getpixel((0, 0))
    picture.save(tmp_path / "clear.png", transparency=red)
    assert_corners(tmp_path / "clear.png", [WHITE, BLUE] * 2)
    picture.save(tmp_path / "clear.gif", transparency=red)
    assert_corners(tmp_path / "clear.gif", [WHITE, BLUE] * 2)
    halves().save(tmp_path / "colour_key.png", transparency=RED)
    assert_corners(tmp_path / "colour_key.png", [WHITE, BLUE] * 2)


def test_transparency_lies_on_white(tmp_path):
    picture = halves(RED, GREEN).convert("RGBA")
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, (0, 0, 32, 32))
    alpha.paste(128, (0, 32, 32, 64))
    picture.putalpha(alpha)
    picture.save(tmp_path / "a.png")
    half = tuple(round(255 + (c - 255) * 128 / 255) for c in RED)
    assert_corners(tmp_path / "a.png", [WHITE, GREEN, half, GREEN], tolerance=1)
    Image.merge("LA", [Image.new("L", (8, 8), 60), Image.new("L", (8, 8), 0)]).save(tmp_path / "grey.png")
    assert_corners(tmp_path / "grey.png", [WHITE] * 4)


def test_one_bit_and_grey(tmp_path):
    halves((0, 0, 0), WHITE).convert("1").save(tmp_path / "bits.png")
    assert_corners(tmp_path / "bits.png", [(0, 0, 0), WHITE] * 2)
    Image.new("L", (9, 9), 77).save(tmp_path / "grey.png")
    assert_corners(tmp_path / "grey.png", [(77,) * 3] * 4)


def test_16_bit_grey_keeps_its_levels(tmp_path):
    levels = np.zeros((64, 64), np.uint16)
    levels[:32, :32], levels[:32, 32:], levels[32:, :32], levels[32:, 32:] = 0, 65535, 257 * 100, 257 * 40
    wanted = [(v,) * 3 for v in (0, 255, 100, 40)]
    for name in ("a.png", "a.tif"):
        Image.fromarray(levels).save(tmp_path / name)
        assert_corners(tmp_path / name, wanted)


def test_a_dark_16_bit_picture_stays_dark(tmp_path):
    """No value above 255, and still sixteen bits deep: nearly black, not stretched to white."""
    Image.fromarray(np.full((16, 16), 200, np.uint16)).save(tmp_path / "dark.png")
    assert_corners(tmp_path / "dark.png", [(1, 1, 1)] * 4)


def test_floating_point_tiff(tmp_path):
    Image.fromarray(np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)).save(tmp_path / "unit.tif")
    pixels = read_picture(tmp_path / "unit.tif", 64)
    assert pixels.min() == 0 and pixels.max() == 255
    holes = np.full((8, 8), 100, np.float32)
    holes[0, 0] = np.nan
    Image.fromarray(holes).save(tmp_path / "holes.tif")
    assert read_picture(tmp_path / "holes.tif", 8)[0, 4, 4] == 100


def test_the_first_frame_of_an_animation(tmp_path):
    frames = [halves(), halves(GREEN, WHITE)]
    for name in ("a.gif", "a.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], duration=50, lossless=True)
        assert_corners(tmp_path / name, [RED, BLUE] * 2)


@pytest.mark.parametrize("ending", ["jpg", "png"])
def test_a_picture_is_turned_upright(tmp_path, ending):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise: what is left comes to the top
    halves().save(tmp_path / f"a.{ending}", exif=exif)
    assert_corners(tmp_path / f"a.{ending}", [RED, RED, BLUE, BLUE], tolerance=6)


def test_20000_pixels_wide(tmp_path):
    """Used, its middle square cut out; the whole would be 1,000 times as wide as what is left of it."""
    wide = Image.new("RGB", (20_000, 40), GREEN)
    wide.paste(halves(RED, BLUE, (40, 40)), (9980, 0))
    for name in ("a.png", "a.jpg"):
        wide.save(tmp_path / name)
        assert_corners(tmp_path / name, [RED, BLUE] * 2, tolerance=6)


def test_a_large_jpeg_keeps_its_detail(tmp_path):
    """Decoded at an eighth where that suffices, but never below the size asked for."""
    stripes = Image.fromarray(np.tile(np.repeat([0, 255], 64).astype(np.uint8), (512, 16)))  # 2048 x 512
    stripes.save(tmp_path / "a.jpg", quality=95)
    pixels = read_picture(tmp_path / "a.jpg", 128)
    assert pixels.shape == (3, 128, 128)
    assert pixels[0, 64].min() < 20 and pixels[0, 64].max() > 235


def broken_files(folder):
    """name -> a piece of the reason with which it is skipped."""
    half = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(half, "JPEG")
    (folder / "half.jpg").write_bytes(half.getvalue()[: len(half.getvalue()) // 2])
    half = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(half, "PNG")
    (folder / "half.png").write_bytes(half.getvalue()[: len(half.getvalue()) // 2])
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("This is no picture.\n" * 50)
    (folder / "header.gif").write_bytes(b"GIF89a")
    (folder / "zeros.webp").write_bytes(bytes(100))
    Image.new("1", (40_000, 3_000)).save(folder / "huge.png")
    return {
        "half.jpg": "truncated",
        "half.png": "truncated",
        "empty.png": "the file is empty",
        "text.png": "its content is no picture",
        "header.gif": "",
        "zeros.webp": "its content is no picture",
        "huge.png": "it has 40000 x 3000 pixels, more than 100,000,000",
    }


def test_unusable_files_are_skipped_with_the_reason(tmp_path):
    reasons = broken_files(tmp_path)
    halves().save(tmp_path / "good.png")
    halves(GREEN, GREEN).save(tmp_path / "zz.png")
    (tmp_path / "notes.txt").write_text("not looked at")
    images = data.folder(tmp_path, size_px=16)
    assert len(images) == 2 and images.images.shape == (2, 3, 16, 16)
    assert corners(images.images[0].numpy()) == [RED, BLUE] * 2  # in the order of the names
    assert len(images.skipped) == len(reasons)
    for name, reason in reasons.items():
        (sentence,) = [s for s in images.skipped if s.startswith(f"skipped {name}: ")]
        assert reason in sentence and sentence.endswith(".") and "\n" not in sentence


def test_a_folder_without_any_usable_picture(tmp_path):
    broken_files(tmp_path)
    with pytest.raises(
        ValueError, match="none of 7 picture files can be read .*, expected at least one that can"
    ):
        data.folder(tmp_path)


def test_wrong_paths(tmp_path):
    with pytest.raises(
        ValueError, match="which holds no pictures, expected files ending in .bmp, .gif, .*put some"
    ):
        data.folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="which does not exist, expected a folder of pictures"):
        data.folder(tmp_path / "missing")
    halves().save(tmp_path / "a.png")
    with pytest.raises(
        NotADirectoryError, match="a.png, which is a file, expected a folder: give the folder"
    ):
        data.folder(tmp_path / "a.png")


def test_what_is_below_counts_and_what_is_hidden_does_not(tmp_path):
    for name in ("b/c.png", "a.png", ".hidden.png", ".cache/thumb.png", "d.png/e.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        halves().save(tmp_path / name)
    (tmp_path / "link.png").symlink_to(tmp_path / "nowhere.png")
    assert read_folder(tmp_path, 8)[0].shape == (3, 3, 8, 8)
    assert len(data.folder(tmp_path, size_px=8, limit=2)) == 2


def test_what_cannot_be_read_does_not_count_towards_the_limit(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    for name in ("b.png", "c.png", "d.png"):
        halves().save(tmp_path / name)
    found = data.folder(tmp_path, size_px=8, limit=2)
    assert len(found) == 2 and len(found.skipped) == 1


def test_a_picture_is_cut_to_its_middle_and_not_squeezed(tmp_path):
    tall = Image.new("RGB", (30, 90), GREEN)
    tall.paste(RED, (0, 30, 30, 60))
    tall.save(tmp_path / "tall.png")
    assert_corners(tmp_path / "tall.png", [RED] * 4)
    Image.new("RGB", (1, 1), BLUE).save(tmp_path / "tiny.png")
    assert_corners(tmp_path / "tiny.png", [BLUE] * 4)


def test_as_rgb_leaves_what_it_is_given(tmp_path):
    picture = halves().convert("RGBA")
    before = picture.tobytes()
    assert as_rgb(picture).mode == "RGB" and picture.tobytes() == before


def test_nothing_is_printed_or_warned_of(tmp_path):
    """Pillow warns of odd EXIF data and of large pictures; what a reader must know is in `skipped`."""
    Image.new("1", (9_500, 9_500)).save(tmp_path / "large.png")
    broken_files(tmp_path)
    code = f"from course_utils import data; print(len(data.folder({str(tmp_path)!r}, size_px=8)))"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, env={**os.environ}
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")


def test_pictures_are_uint8_tensors(tmp_path):
    halves().save(tmp_path / "a.png")
    images = data.folder(str(tmp_path), size_px=24)
    assert images.images.dtype == torch.uint8 and images.size_px == 24 and images.labels == {}
    assert images.source == f"1 pictures from {tmp_path}"


# On the disk


def odd_pictures(folder):
    """Of many modes, sizes and orientations; in no order, and in folders."""
    turned = Image.Exif()
    turned[0x0112] = 8
    noise = [Image.effect_noise((30 + 7 * i, 50 - 3 * i), 90) for i in range(8)]
    deep = np.linspace(0, 65535, 40 * 20).astype(np.uint16).reshape(40, 20)
    (folder / "a").mkdir()
    Image.merge("RGB", noise[:1] * 3).save(folder / "z.jpg", exif=turned)
    halves(size=(90, 40)).save(folder / "a.png", exif=turned)
    halves().convert("CMYK").save(folder / "a" / "k.tif")
    Image.fromarray(deep).save(folder / "a" / "deep.png")
    Image.merge("LA", noise[1:2] * 2).save(folder / "a-b.png")
    noise[2].quantize(8).save(folder / "B.gif", transparency=2)
    noise[3].convert("1").save(folder / "bits.bmp")
    halves().save(folder / "film.webp", save_all=True, append_images=[halves(GREEN)], lossless=True)
    return np.stack([read_picture(file, 12) for file in picture_files(folder)])


def test_the_order_is_that_of_the_whole_paths(tmp_path):
    odd_pictures(tmp_path)
    found = list(picture_files(tmp_path))
    assert len(found) == 8 and found == sorted(file for file in tmp_path.rglob("*") if file.is_file())


def test_what_is_read_from_the_disk_is_what_was_decoded(tmp_path):
    wanted = torch.from_numpy(odd_pictures(tmp_path))
    assert torch.equal(data.folder(tmp_path, size_px=12).images, wanted)
    images = data.folder(tmp_path, size_px=12)
    assert images.shape == (8, 3, 12, 12) and images.size_px == 12 and len(images) == 8
    assert torch.equal(images.read(np.array([6, 1, 1])), wanted[[6, 1, 1]])
    for index in (slice(2, 7, 2), torch.tensor([5, 0]), torch.arange(8) % 3 == 0):
        part = images[index]
        assert part.source == images.source and torch.equal(part.images, wanted[index])
        assert torch.equal(images[index][1:].read([0]), wanted[index][1:][[0]])
    kept = data.ImageSet(wanted, "in memory")
    for mine, theirs in zip(data.split(images, 0.6), data.split(kept, 0.6), strict=True):
        batches, same = data.Batches(mine, 3), data.Batches(theirs, 3)
        assert all(torch.equal(batches(n), same(n)) for n in range(4))
        assert torch.equal(mine.images, theirs.images)


def test_pictures_brought_into_memory_stay_and_can_be_changed(tmp_path):
    halves().save(tmp_path / "a.png")
    images = data.folder(tmp_path, size_px=8)
    images.images[0] = 7
    assert images.images is images.images
    assert images.read([0]).unique().tolist() == images[:1].images.unique().tolist() == [7]


def test_memory_does_not_grow_with_the_number_of_pictures(tmp_path):
    """Beside the pixels of a batch there are a name and a place for each: not a tenth of a small picture."""
    size_px, peaks = 32, {}

    def train(count):
        images, _ = data.split(data.folder(tmp_path, size_px=size_px, limit=count), 0.9)
        batches = data.Batches(images, 4)
        return [batches(n).shape for n in range(20)]

    for number in range(400):
        Image.new("RGB", (3, 2), (number % 256, 0, 0)).save(tmp_path / f"{number:03}.png")
    train(10)  # what is imported and kept for good comes now
    for count in (100, 400):
        tracemalloc.start()
        assert train(count) == [(4, 3, size_px, size_px)] * 20
        peaks[count] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[400] - peaks[100] < 300 * 3 * size_px**2 / 10, peaks


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no device that is always full")
def test_a_full_disk_is_no_broken_picture(tmp_path, monkeypatch):
    halves().save(tmp_path / "a.png")
    monkeypatch.setattr(tempfile, "TemporaryFile", partial(open, "/dev/full", "w+b"))
    wanted = "doesn't take the resized pictures .*No space left.*, expected room for them: free some, or set"
    with pytest.raises(OSError, match=wanted):
        data.folder(tmp_path)


def test_nothing_is_left_on_the_disk(tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    (tmp_path / "pictures").mkdir()
    halves().save(tmp_path / "pictures" / "a.png")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    images = data.folder(tmp_path / "pictures")
    assert len(images.images) == 1
    del images
    assert not list((tmp_path / "temporary").iterdir())
