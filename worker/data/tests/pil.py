"""Writes images of every kind to the folder in argv[1], each with the pixels that PIL gives for it: `NAME.WxH.rgb`."""
import pathlib
import sys

import numpy as np
from PIL import Image, ImageOps

folder = pathlib.Path(sys.argv[1])
rng = np.random.default_rng(0)


def scene(width, height):
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 9 + y / 23 + phase) + np.cos(y / 7 - x / 31 + phase) for phase in (0, 1, 2)]
    return Image.fromarray(np.clip(128 + 45 * np.stack(waves, -1) + rng.normal(0, 1, (height, width, 3)), 0, 255).astype("uint8"))


def keep(name, image, **options):
    path = folder / name
    image.save(path, **options)
    expected = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    (folder / f"{name}.{expected.width}x{expected.height}.rgb").write_bytes(expected.tobytes())


for size in ((64, 48), (37, 53), (1, 1), (9, 130), (255, 17)):
    photo = scene(*size)
    tag = "x".join(map(str, size))
    for sampling in (0, 1, 2):
        keep(f"baseline-{sampling}-{tag}.jpg", photo, quality=90, subsampling=sampling)
        keep(f"progressive-{sampling}-{tag}.jpg", photo, quality=90, subsampling=sampling, progressive=True)
    keep(f"grey-{tag}.jpg", photo.convert("L"), quality=90)
    keep(f"cmyk-{tag}.jpg", photo.convert("CMYK"), quality=95)
    keep(f"restart-{tag}.jpg", photo, quality=90, restart_marker_blocks=3)
    keep(f"rgb-{tag}.jpg", photo, quality=95, keep_rgb=True)
    keep(f"rgb-{tag}.png", photo)
    keep(f"grey-{tag}.png", photo.convert("L"))
    keep(f"bit-{tag}.png", photo.convert("1"))
    keep(f"palette-{tag}.png", photo.quantize(17))
    keep(f"palette-transparent-{tag}.png", photo.quantize(17), transparency=3)
    alpha = photo.copy()
    alpha.putalpha(photo.convert("L"))
    keep(f"alpha-{tag}.png", alpha)
    keep(f"grey-alpha-{tag}.png", alpha.convert("LA"))
    keep(f"lossless-{tag}.webp", photo, lossless=True)
    keep(f"lossy-{tag}.webp", photo, quality=90)
    keep(f"alpha-{tag}.webp", alpha, quality=90, exact=True)
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    for kind in ("jpg", "png", "webp"):
        options = {"jpg": {"quality": 95, "subsampling": 0}, "webp": {"lossless": True}}.get(kind, {})
        keep(f"orientation-{orientation}.{kind}", scene(40, 24), exif=exif, **options)
frames = [scene(32, 32) for _ in range(3)]
keep("animated.webp", frames[0], save_all=True, append_images=frames[1:], lossless=True)
