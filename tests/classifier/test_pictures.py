"""How pictures of every kind are opened."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from peft_mudpt import open_picture


GRAY = np.random.default_rng(0).integers(0, 256, (20, 30), dtype=np.uint8)
GRAY[0, :2] = 0, 255
COLOR = np.random.default_rng(1).integers(0, 256, (20, 30, 3), dtype=np.uint8)
HOLE = np.zeros((20, 30), dtype=bool)
HOLE[5:15, 5:25] = True
DEEP = GRAY.astype(np.uint16)
WHITE = 255


def encoded(image, format="PNG", **options):
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def seen(source):
    return np.asarray(open_picture(source)).astype(int)


def gray(values):
    """An RGB picture from gray values (H, W)."""
    return np.repeat(np.asarray(values)[..., None], 3, axis=-1).astype(int)


def laid_on_white(colors):
    return np.where(HOLE[..., None], WHITE, colors).astype(int)


def with_alpha(colors, invisible):
    alpha = np.where(HOLE, 0, 255).astype(np.uint8)
    return np.dstack([np.where(HOLE[..., None], invisible, colors).astype(np.uint8), alpha])


def cmyk_picture(colors, black):
    return Image.merge("CMYK", [Image.fromarray(band) for band in (*np.moveaxis(colors, -1, 0), black)])


class TestDepth:
    @pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "array"])
    def test_gray_values_of_more_bits_look_as_those_of_eight(self, format, bits):
        deep = np.rint(GRAY * ((2**bits - 1) / 255)).astype(np.uint16)
        source = deep if format == "array" else encoded(Image.fromarray(deep), format)
        assert (seen(source) == gray(GRAY)).all()

    @pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64, ">u2"])
    def test_integers_of_every_kind_are_scaled_alike(self, kind):
        assert (seen((DEEP * 257).astype(kind)) == gray(GRAY)).all()

    @pytest.mark.parametrize("pixels", [GRAY, COLOR])
    @pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
    def test_floating_point_from_0_to_1_is_scaled(self, kind, pixels):
        expected = gray(pixels) if pixels.ndim == 2 else pixels.astype(int)
        assert (seen((pixels / 255).astype(kind)) == expected).all()

    @pytest.mark.parametrize(
        "image", [Image.fromarray(DEEP.astype(np.int32) * 257), Image.fromarray(DEEP / np.float32(255))]
    )
    def test_a_tiff_of_32_bits_or_floating_point_is_scaled(self, image):
        assert (seen(encoded(image, "TIFF")) == gray(GRAY)).all()

    @pytest.mark.parametrize(
        ("values", "found"),
        [
            (GRAY.astype(np.float32), "0.0 to 255.0"),
            (np.array([[0, np.nan]]), "nan to nan"),
            (np.array([[0, np.inf]]), "0.0 to inf"),
            (-GRAY.astype(np.int32), "-255 to 0"),
            (GRAY.astype(np.int32) * 1000, "0 to 255,000"),
            (GRAY > 100, "of type bool"),
            (GRAY.astype(complex), "of type complex128"),
        ],
    )
    def test_values_whose_white_is_unknown_are_refused_by_name(self, values, found):
        with pytest.raises(ValueError, match=f"scan.tif cannot be read: its values are .*{found}"):
            open_picture(values, "scan.tif")

    @pytest.mark.parametrize("values", [GRAY.astype(np.float32), GRAY.astype(np.int32) * 1000])
    def test_a_file_whose_white_is_unknown_is_refused(self, values):
        with pytest.raises(ValueError, match="its values are from 0"):
            open_picture(encoded(Image.fromarray(values), "TIFF"))

    def test_colors_of_16_bits_are_read_and_of_12_in_16_refused(self):
        assert (seen(png(COLOR.astype(np.uint16) * 257)) == COLOR).all()
        with pytest.raises(ValueError, match="12 bits or fewer"):
            open_picture(png(COLOR.astype(np.uint16) * 16))

    @pytest.mark.parametrize("values", [DEEP * 257, DEEP / np.float32(255)])
    @pytest.mark.parametrize("given", [lambda file: file, lambda file: Image.open(io.BytesIO(file))])
    def test_a_deep_tiff_that_pillow_would_show_inverted_is_refused(self, values, given):
        file = bytearray(encoded(Image.fromarray(values), "TIFF"))
        tag = (262).to_bytes(2, "little") + (3).to_bytes(2, "little") + (1).to_bytes(4, "little")
        value = file.index(tag) + len(tag)
        file[value : value + 2] = b"\0\0"
        with pytest.raises(ValueError, match="0 is white"):
            open_picture(given(bytes(file)))


def png(values, bits=16, transparent=None):
    """Encode values (H, W) or (H, W, 3) with 1 to 16 bits, and the transparent one. Pillow writes few of these."""

    def chunk(kind, content):
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    height, width, *colors = values.shape
    each = (values.reshape(height, -1, 1) >> np.arange(bits - 1, -1, -1)) & 1  # the bits of each value, highest first
    rows = [b"\0" + np.packbits(row).tobytes() for row in each]
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([bits, 2 if colors else 0, 0, 0, 0])
    hole = b"" if transparent is None else chunk(b"tRNS", transparent.to_bytes(2, "big") * (3 if colors else 1))
    chunks = chunk(b"IHDR", head) + hole + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


class TestTransparency:
    @pytest.mark.parametrize("invisible", [0, 255, 100])
    @pytest.mark.parametrize("format", ["PNG", "TIFF", "array", "PIL", "RGBa"])
    def test_what_is_transparent_is_white_whatever_lies_under_it(self, format, invisible):
        pixels = with_alpha(COLOR, invisible)
        image = Image.fromarray(pixels)
        sources = {"array": pixels, "PIL": image, "RGBa": image.convert("RGBa")}
        source = sources[format] if format in sources else encoded(image, format)
        assert (seen(source) == laid_on_white(COLOR)).all()

    @pytest.mark.parametrize("mode", ["LA", "La"])
    def test_gray_with_alpha(self, mode):
        alpha = np.where(HOLE, 0, 255).astype(np.uint8)
        image = Image.merge("LA", [Image.fromarray(GRAY), Image.fromarray(alpha)]).convert(mode)
        assert (seen(image) == laid_on_white(gray(GRAY))).all()

    def test_half_transparent_is_mixed_with_white(self):
        half = np.full((2, 2, 4), (0, 0, 0, 128), dtype=np.uint8)
        assert (seen(encoded(Image.fromarray(half))) == 127).all()

    @pytest.mark.parametrize("mode", ["L", "RGB", "P"])
    def test_one_color_that_the_file_calls_transparent(self, mode):
        image = Image.fromarray(np.where(HOLE, 7, 200).astype(np.uint8)).convert(mode)
        file = encoded(image, transparency=(7, 7, 7) if mode == "RGB" else 7)
        assert (seen(file) == laid_on_white(gray(np.full((20, 30), 200)))).all()

    @pytest.mark.parametrize(
        ("bits", "colors", "transparent"), [(1, 1, 0), (2, 1, 1), (4, 1, 3), (16, 1, 40000), (16, 3, 40000)]
    )
    def test_one_color_that_a_png_of_few_or_many_bits_calls_transparent(self, bits, colors, transparent):
        values = np.where(HOLE, transparent, 2**bits - 1)
        file = png(values if colors == 1 else np.dstack([values] * 3), bits, transparent)
        for source in (file, Image.open(io.BytesIO(file))):
            assert (seen(source) == 255).all()

    def test_a_palette_with_alpha(self):
        image = Image.fromarray(np.where(HOLE, 0, 1).astype(np.uint8))
        image.putpalette([9, 9, 9, 0, 200, 100, 50, 255], "RGBA")
        assert (seen(image) == laid_on_white(np.full((20, 30, 3), (200, 100, 50)))).all()


class TestOtherKinds:
    def test_cmyk(self):
        cmyk = cmyk_picture(COLOR, GRAY // 2)
        expected = (255 - COLOR.astype(int)) * (255 - (GRAY // 2)[..., None].astype(int)) / 255
        assert np.abs(seen(encoded(cmyk, "TIFF")) - expected).max() <= 1

    def test_a_palette_and_one_bit(self):
        assert (seen(encoded(Image.fromarray(GRAY).convert("P"))) == gray(GRAY)).all()
        assert (seen(encoded(Image.fromarray(HOLE))) == gray(255 * HOLE)).all()

    @pytest.mark.parametrize("pixels", [COLOR, GRAY.astype(np.uint16) * 257, with_alpha(COLOR, 0)])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_the_orientation_of_exif(self, orientation, pixels):
        exif = Image.Exif()
        exif[0x0112] = orientation
        upright = seen(pixels)
        expected = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.swapaxes(0, 1),
            6: np.rot90(upright, -1),
            7: upright[::-1, ::-1].swapaxes(0, 1),
            8: np.rot90(upright),
        }
        assert (seen(encoded(Image.fromarray(pixels), exif=exif)) == expected[orientation]).all()

    @pytest.mark.parametrize("wrong_tag", [256, 282])  # a width and a resolution that are texts
    def test_another_tag_of_exif_may_be_wrong(self, wrong_tag):
        entries = ((274, 3, 6 << 16), (wrong_tag, 2, ord("a") << 24))  # tag, type, value; a quarter turn first
        written = b"".join(struct.pack(">HHII", tag, kind, 1, value) for tag, kind, value in sorted(entries))
        exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(entries)) + written + bytes(4)
        assert (seen(encoded(Image.fromarray(COLOR), exif=exif)) == np.rot90(COLOR, -1)).all()

    @pytest.mark.parametrize("format", ["GIF", "TIFF", "PNG", "WEBP"])
    def test_of_several_frames_the_first(self, format):
        frames = [Image.fromarray(np.full((20, 30), value, dtype=np.uint8)) for value in (200, 10, 90)]
        options = {"lossless": True} if format == "WEBP" else {}
        file = encoded(frames[0], format, save_all=True, append_images=frames[1:], **options)
        assert (seen(file) == 200).all()

    @pytest.mark.parametrize("shape", [(20, 30), (20, 30, 1)])
    def test_gray_arrays(self, shape):
        assert (seen(GRAY.reshape(shape)) == gray(GRAY)).all()

    def test_every_way_to_give_a_picture(self, tmp_path):
        file, content = tmp_path / "a.png", encoded(Image.fromarray(COLOR))
        file.write_bytes(content)
        stored = ({"bytes": None, "path": str(file)}, {"bytes": content, "path": "elsewhere.png"})
        for source in (file, str(file), content, bytearray(content), Image.open(file), COLOR, *stored):
            picture = open_picture(source)
            assert picture.mode == "RGB" and (np.asarray(picture) == COLOR).all()

    def test_the_picture_that_is_given_stays_as_it_was(self):
        image = Image.fromarray(with_alpha(COLOR, 0))
        open_picture(image)
        assert image.mode == "RGBA" and (np.asarray(image) == with_alpha(COLOR, 0)).all()


class TestHeic:
    def test_it_is_opened_if_its_package_is_installed(self):
        pytest.importorskip("pillow_heif").register_heif_opener()
        file = encoded(Image.fromarray(np.full((64, 48, 3), (200, 30, 60), dtype=np.uint8)), "HEIF")
        assert np.abs(seen(file) - (200, 30, 60)).max() < 8

    def test_without_its_package_the_error_says_what_to_install(self, monkeypatch, tmp_path):
        monkeypatch.setattr("peft_mudpt.classifier.pictures.register_formats", lambda: False)
        monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
        photograph = b"\0\0\0\x18ftypheic" + bytes(40)
        (tmp_path / "IMG_1.heic").write_bytes(photograph)
        for source, name in ((photograph, "the picture"), (tmp_path / "IMG_1.heic", "IMG_1.heic")):
            with pytest.raises(ValueError, match=f"{name} cannot be read: .*HEIC.*pillow-heif: pip install .*heic"):
                open_picture(source)


class TestRefusing:
    @pytest.mark.parametrize(
        "url", ["https://a.b/c.png", "HTTP://a.b/c.png", "s3://a/b.png", "data:image/png;base64,AA"]
    )
    def test_a_url_is_not_opened(self, url, monkeypatch):
        monkeypatch.setattr("socket.socket", lambda *args, **kwargs: pytest.fail("the network was used"))
        with pytest.raises(ValueError, match="cannot be read: it is a URL.*download it"):
            open_picture(url)

    @pytest.mark.parametrize("path", ["gone.png", "", ".", "x" * 5000, "a\0b"])
    def test_what_is_no_file(self, path):
        with pytest.raises(ValueError, match="cannot be read: it is not a file") as refused:
            open_picture(path)
        assert len(str(refused.value)) < 200

    def test_a_pipe_that_would_be_waited_for(self, tmp_path):
        os.mkfifo(tmp_path / "a.png")
        with pytest.raises(ValueError, match="a.png cannot be read: it is not a file"):
            open_picture(tmp_path / "a.png")

    @pytest.mark.parametrize(
        "source", [5, None, [COLOR], torch.zeros(3, 8, 8), io.BytesIO(), {"path": None}, {"label": 1}]
    )
    def test_another_type(self, source):
        with pytest.raises(ValueError, match="the picture cannot be read: it is of type"):
            open_picture(source)

    @pytest.mark.parametrize("shape", [(3, 20, 30), (20,), (20, 30, 2), (1, 20, 30, 3), (0, 30), ()])
    def test_an_array_of_another_shape(self, shape):
        with pytest.raises(ValueError, match="cannot be read: it is an array"):
            open_picture(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize("size", [(101, 1), (1, 101), (30_000, 1), (2, 201)])
    def test_a_strip(self, size):
        for source in (Image.new("L", size), encoded(Image.new("L", size))):
            with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} pixels.*100 times"):
                open_picture(source)

    @pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
    def test_no_pixels(self, size):
        with pytest.raises(ValueError, match="cannot be read: it is . x . pixels"):
            open_picture(Image.new("RGB", size))

    def test_the_longest_strip_that_is_opened(self):
        assert open_picture(Image.new("L", (100, 1))).size == (100, 1)

    def test_a_decompression_bomb(self):
        with pytest.raises(ValueError, match="huge.png cannot be read: .*14000|196000000"):
            open_picture(encoded(Image.new("1", (14_000, 14_000))), "huge.png")

    def test_a_program_in_postscript_is_not_run(self, monkeypatch):
        monkeypatch.setattr("subprocess.check_call", lambda *args, **kwargs: pytest.fail("Ghostscript was run"))
        with pytest.raises(ValueError, match="PostScript"):
            open_picture(encoded(Image.fromarray(COLOR), "EPS"))
