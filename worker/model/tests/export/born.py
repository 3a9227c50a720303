"""born.py FOLDER: networks that timm, transformers and open_clip have made themselves, saved as these packages save them, each
with images, texts and the package's own features in features.safetensors beside it.
"""
import json
import os
import pathlib
import sys

os.environ["HF_HUB_OFFLINE"] = "1"
import open_clip
import timm
import torch
from safetensors.torch import save_file
from transformers import SiglipVisionConfig, SiglipVisionModel


def perturb(model):
    """No parameter stays where its layer starts it: zeros and ones hide mistakes."""
    for parameter in model.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.02)
    return model.eval()


def save(folder, features, weights=None, settings=None):
    folder.mkdir(exist_ok=True)
    contiguous = {name: tensor.detach().clone().contiguous() for name, tensor in (weights or {}).items()}
    if contiguous:
        save_file(contiguous, folder / "model.safetensors")
    for name, content in (settings or {}).items():
        (folder / name).write_text(json.dumps(content))
    save_file({name: tensor.contiguous() for name, tensor in features.items()}, folder / "features.safetensors")


def images(size):
    return torch.rand(2, 3, size, size) * 2 - 1


def seen(images):
    """Height × width × channels, as ours are."""
    return images.permute(0, 2, 3, 1)


def of_timm(folder, pool):
    arguments = dict(
        img_size=64, patch_size=8, embed_dim=96, depth=3, num_heads=6, class_token=False, global_pool=pool,
        num_classes=0, act_layer="gelu_tanh", fc_norm=False,
    )
    model = perturb(timm.create_model("vit_tiny_patch16_224", pretrained=False, **arguments))
    pictures = images(64)
    tokens = model.forward_features(pictures)
    features = {"images": seen(pictures), "tokens": tokens, "pooled": model.forward_head(tokens, pre_logits=True)}
    settings = {"config.json": {"architecture": "vit_tiny_patch16_224", "model_args": arguments}}
    save(folder, features, model.state_dict(), settings)


def of_transformers(folder):
    config = SiglipVisionConfig(
        hidden_size=96, intermediate_size=200, num_hidden_layers=3, num_attention_heads=6, image_size=64, patch_size=8
    )
    model = perturb(SiglipVisionModel(config))
    model.save_pretrained(folder)
    pictures = images(64)
    answer = model(pixel_values=pictures)
    save(folder, {"images": seen(pictures), "tokens": answer.last_hidden_state, "pooled": answer.pooler_output})


def of_open_clip(folder):
    """The towers of ViT-B-16-SigLIP, the text tower smaller."""
    settings = {
        "embed_dim": 768,
        "init_logit_bias": -10,
        "custom_text": True,
        "vision_cfg": {
            "image_size": 224, "timm_model_name": "vit_base_patch16_siglip_224", "timm_model_pretrained": False,
            "timm_pool": "map", "timm_proj": "none",
        },
        "text_cfg": {
            "context_length": 16, "vocab_size": 500, "width": 768, "heads": 12, "layers": 2, "no_causal_mask": True,
            "proj_bias": True, "pool_type": "last", "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
        },
    }
    path = folder.parent / "born-pair.json"
    path.write_text(json.dumps(settings))
    open_clip.add_model_config(path)
    model = perturb(open_clip.create_model("born-pair", pretrained=None))
    pictures, texts = images(224), torch.randint(0, 500, (2, 16))
    features = {
        "images": seen(pictures), "texts": texts, "logits": model.get_logits(pictures, texts)[0],
        "image": model.encode_image(pictures, normalize=True), "text": model.encode_text(texts, normalize=True),
    }
    save(folder, features, model.state_dict(), {"open_clip_config.json": {"model_cfg": settings}})


if __name__ == "__main__":
    into = pathlib.Path(sys.argv[1])
    torch.manual_seed(1)
    with torch.no_grad():
        of_timm(into / "timm-avg", "avg")
        of_timm(into / "timm-map", "map")
        of_transformers(into / "transformers")
        of_open_clip(into / "open_clip")
