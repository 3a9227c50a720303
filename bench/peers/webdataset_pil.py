"""The same work as `data-bench prepare`, as users of Python do it: one shard over and over, decode, resize to 224, tokenise.

webdataset_pil.py webdataset|torchvision SHARD TOKENIZER [SECONDS]
"""
import json
import sys
import tarfile
import time

import tokenizers

SIZE, LENGTH = 224, 64
kind, shard, tokenizer_file = sys.argv[1:4]
seconds = float(sys.argv[4]) if len(sys.argv) > 4 else 2.0
tokenizer = tokenizers.Tokenizer.from_file(tokenizer_file)


def tokens(text):
    ids = tokenizer.encode(text.lower()).ids[: LENGTH - 1] + [1]
    return ids + [0] * (LENGTH - len(ids))


if kind == "webdataset":
    import numpy as np
    import webdataset
    from PIL import Image

    def pixels(image):
        return np.asarray(image.resize((SIZE, SIZE), Image.BILINEAR))

    def samples():
        data = webdataset.WebDataset(shard, shardshuffle=False).decode("pil").to_tuple("jpg", "txt").map_tuple(pixels, tokens)
        yield from data
else:
    import torch
    from torchvision.io import ImageReadMode, decode_jpeg
    from torchvision.transforms.v2.functional import resize

    torch.set_num_threads(1)

    def samples():
        with tarfile.open(shard) as archive:
            image = None
            for entry in archive:
                content = archive.extractfile(entry).read()
                if entry.name.endswith(".jpg"):
                    file = torch.frombuffer(bytearray(content), dtype=torch.uint8)
                    image = resize(decode_jpeg(file, mode=ImageReadMode.RGB), [SIZE, SIZE])
                else:
                    yield image, tokens(content.decode())


for _ in samples():  # once before the clock starts, for what is loaded lazily
    pass
begin, cpu, images = time.perf_counter(), time.process_time(), 0
while time.perf_counter() - begin < seconds:
    for _ in samples():
        images += 1
wall, cpu = time.perf_counter() - begin, time.process_time() - cpu
print(json.dumps({"images_per_second": round(images / wall, 1), "images_per_cpu_second": round(images / cpu, 1), "images": images}))
