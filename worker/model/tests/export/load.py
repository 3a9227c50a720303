"""load.py list|check FOLDER: exported encoders beside the real timm and transformers.

`list` prints the names and shapes that the packages' own models have, for the networks whose configs are in FOLDER; `check`
loads what export.rs wrote into FOLDER, compares the packages' features with ours, and the listing with listed.json.
"""
import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import timm
import torch
from safetensors.torch import load_file
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


def listing(folder):
    """Of the networks that the configs in FOLDER describe, made by the packages."""
    names = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith("-timm"):
            model = timm.create_model(f"local-dir:{path}", pretrained=False)
        elif path.name.endswith("-transformers"):
            model = SiglipVisionModel(SiglipVisionConfig(**json.loads((path / "config.json").read_text())))
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
