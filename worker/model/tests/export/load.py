"""load.py list|check FOLDER: exported networks beside the real timm, transformers and open_clip.

`list` prints the names and shapes that the packages' own models have, for the networks whose configs are in FOLDER; `check`
loads what export.rs wrote into FOLDER, compares the packages' features with ours, and the listing with listed.json; then it
runs the Python of docs/ENCODERS.md.
"""
import json
import os
import pathlib
import re
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import numpy
import open_clip
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import SiglipVisionConfig, SiglipVisionModel

TOLERANCE = 1e-4


def of_timm(folder):
    """The folder as timm loads it; its config alone decides what the network is."""
    return timm.create_model(f"local-dir:{folder}", pretrained=True).eval()


def of_transformers(folder):
    model, report = SiglipVisionModel.from_pretrained(folder, output_loading_info=True)
    loaded = {kind: names for kind, names in report.items() if names}
    assert not loaded, f"{folder}: {loaded}"
    return model.eval()


def of_open_clip(folder):
    """Strict: every tensor of the file has its place, and every place its tensor."""
    return open_clip.create_model(f"local-dir:{folder}", require_pretrained=True).eval()


def compare(what, found, wanted):
    assert found.shape == wanted.shape, f"{what}: shape {found.shape}, not {wanted.shape}"
    difference = (found - wanted).abs().max().item()
    print(f"{what}: {difference:.2e}")
    assert difference <= TOLERANCE, what


@torch.no_grad()
def check(folder):
    listed = json.loads(pathlib.Path(__file__).with_name("listed.json").read_text())
    assert listing(folder) == listed, "listed.json is not what the packages have: write it again with `list`"
    for name in ("captioner", "towers"):
        ours = load_file(folder / f"{name}.safetensors")
        images = ours["images"].permute(0, 3, 1, 2)
        model = of_timm(folder / f"{name}-timm")
        tokens = model.forward_features(images)
        compare(f"{name}, timm, tokens", tokens, ours["tokens"])
        compare(f"{name}, timm, pooled", model.forward_head(tokens, pre_logits=True), ours["pooled"])
        if "projected" in ours:
            projected = torch.nn.functional.normalize(model(images), dim=-1)
            compare(f"{name}, timm, projected", projected, ours["projected"])
        answer = of_transformers(folder / f"{name}-transformers")(pixel_values=images)
        compare(f"{name}, transformers, tokens", answer.last_hidden_state, ours["tokens"])
        pooled = answer.last_hidden_state.mean(1) if answer.pooler_output is None else answer.pooler_output
        compare(f"{name}, transformers, pooled", pooled, ours["pooled"])
    ours = load_file(folder / "pairs.safetensors")
    images, texts = ours["images"].permute(0, 3, 1, 2), ours["texts"]
    model = of_open_clip(folder / "pairs-open_clip")
    compare("pairs, open_clip, image", model.encode_image(images, normalize=True), ours["image"])
    compare("pairs, open_clip, text", model.encode_text(texts, normalize=True), ours["text"])
    compare("pairs, open_clip, logits", model.get_logits(images, texts)[0], ours["logits"])
    snippets(folder)


def snippets(folder):
    """Every piece of Python of the page, by itself, in a folder that has what it names."""
    for name, made in ("encoder-timm", "captioner-timm"), ("encoder-transformers", "towers-transformers"), ("towers", "pairs-open_clip"):
        (folder / name).symlink_to(folder / made)
    Image.new("RGB", (80, 60), (200, 30, 30)).save(folder / "picture.jpg")
    ids = {word: i for i, word in enumerate(["<pad>", "</s>", "a", "red", "blue", "star", "ring"])}
    words = Tokenizer(models.WordLevel(ids, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.save(str(folder / "tokenizer.json"))
    numpy.save(folder / "features.npy", numpy.zeros((2, 64), numpy.float32))
    (folder / "features.keys.txt").write_text("one\ntwo\n")
    page = pathlib.Path(__file__).parents[4] / "docs/ENCODERS.md"
    pieces = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    expected = [("patches", (1, 64, 64)), ("pooled", (1, 64)), ("similarity", (1, 2)), ("features", (2, 64))]
    assert len(pieces) == len(expected)
    os.chdir(folder)
    for piece, (name, shape) in zip(pieces, expected):
        made = {}
        exec(compile(piece, str(page), "exec"), made)
        assert made[name].shape == shape, f"{piece}: {name} has shape {made[name].shape}"


def listing(folder):
    """Of the networks that the configs in FOLDER describe, made by the packages."""
    names = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith("-timm"):
            model = timm.create_model(f"local-dir:{path}", pretrained=False)
        elif path.name.endswith("-transformers"):
            model = SiglipVisionModel(SiglipVisionConfig(**json.loads((path / "config.json").read_text())))
        elif path.name.endswith("-open_clip"):
            model = open_clip.create_model(f"local-dir:{path}", load_weights=False)
        else:
            continue
        names[path.name] = {name: list(tensor.shape) for name, tensor in sorted(model.state_dict().items())}
    return names


if __name__ == "__main__":
    command, folder = sys.argv[1], pathlib.Path(sys.argv[2])
    if command == "list":
        print(json.dumps(listing(folder), indent=1))
    else:
        check(folder)
