#!/usr/bin/env python3
"""The peer to beat: one CapPa training step in plain PyTorch, as its users would write it.

Prints one JSON line: images/s and CPU time over the timed steps, FLOP per image, MFU (where --peak-tflops is given),
peak memory. Model and FLOP count follow the CapPa paper's encoder-decoder: ViT encoder without a class
token, decoder with causal (Cap) or all-mask parallel (Pa) inputs, untied 32k-way output, biases off in
the decoder. Random data: this times the step, not the input pipeline.

    python torch_cappa.py --preset tiny --batch 32 --steps 20 --threads 1
    torchrun --nproc-per-node 2 torch_cappa.py --preset tiny --batch 32 --threads 1
    python torch_cappa.py --preset b16 --batch 256 --device cuda --precision bf16 --compile --peak-tflops 790
"""
import argparse
import json
import os
import resource
import time

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

PRESETS = {  # image, patch, width, enc layers, dec layers, heads, mlp, text length, vocab
    "tiny": (64, 8, 128, 4, 2, 4, 512, 24, 512),
    "s16": (224, 16, 384, 12, 6, 6, 1536, 64, 32000),
    "b16": (224, 16, 768, 12, 6, 12, 3072, 64, 32000),
    "l14": (224, 14, 1024, 24, 12, 16, 4096, 64, 32000),
}


class Attention(nn.Module):
    def __init__(self, width, heads, bias):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=bias)
        self.kv = nn.Linear(width, 2 * width, bias=bias)
        self.out = nn.Linear(width, width, bias=bias)

    def forward(self, x, memory=None, mask=None):
        memory = x if memory is None else memory
        b, n, w = x.shape
        split = lambda t: t.view(b, -1, self.heads, w // self.heads).transpose(1, 2)
        k, v = self.kv(memory).chunk(2, -1)
        y = F.scaled_dot_product_attention(split(self.q(x)), split(k), split(v), attn_mask=mask)
        return self.out(y.transpose(1, 2).reshape(b, n, w))


class Block(nn.Module):
    def __init__(self, width, heads, mlp, cross, bias):
        super().__init__()
        norm = lambda: nn.LayerNorm(width, eps=1e-6, bias=bias)
        self.n1, self.attn = norm(), Attention(width, heads, bias)
        self.nx, self.cross = (norm(), Attention(width, heads, False)) if cross else (None, None)
        self.n2 = norm()
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp, bias=bias), nn.GELU(approximate="tanh"), nn.Linear(mlp, width, bias=bias))

    def forward(self, x, memory=None, mask=None):
        x = x + self.attn(self.n1(x), mask=mask)
        if self.cross is not None:
            x = x + self.cross(self.nx(x), memory)
        return x + self.mlp(self.n2(x))


class CapPa(nn.Module):
    def __init__(self, preset, parallel):
        super().__init__()
        image, patch, width, enc, dec, heads, mlp, self.length, self.vocab = PRESETS[preset]
        self.parallel = parallel
        self.patchify = nn.Conv2d(3, width, patch, patch)
        self.pos = nn.Parameter(torch.randn(1, (image // patch) ** 2, width) / width**0.5)
        self.encoder = nn.ModuleList(Block(width, heads, mlp, False, True) for _ in range(enc))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.embed = nn.Embedding(self.vocab + 1, width)
        self.text_pos = nn.Parameter(torch.randn(1, self.length, width) / width**0.5)
        self.decoder = nn.ModuleList(Block(width, heads, mlp, True, False) for _ in range(dec))
        self.decoder_norm = nn.LayerNorm(width, eps=1e-6)
        self.logits = nn.Linear(width, self.vocab)

    def forward(self, image, text):
        x = self.patchify(image).flatten(2).transpose(1, 2) + self.pos
        for block in self.encoder:
            x = block(x)
        x = self.encoder_norm(x)
        b, n = text.shape
        parallel = torch.rand(b, 1, device=text.device) < self.parallel
        shifted = F.pad(text, (1, 0))[:, :-1]
        tokens = torch.where(parallel, torch.full_like(text, self.vocab), shifted)
        causal = torch.ones(n, n, dtype=torch.bool, device=text.device).tril()
        mask = (causal | parallel[:, :, None])[:, None]
        y = self.embed(tokens) + self.text_pos
        for block in self.decoder:
            y = block(y, x, mask)
        logits = self.logits(self.decoder_norm(y))
        loss = F.cross_entropy(logits.flatten(0, 1).float(), text.flatten(), reduction="none").view(b, n)
        weight = (text != 0).float()
        return ((loss * weight).sum(1) / weight.sum(1)).mean()


def flop_per_image(preset):
    """Matrix-product FLOP of forward + backward (3 x forward) for one image-text pair, in FLOP."""
    image, patch, w, enc, dec, _, mlp, n, vocab = PRESETS[preset]
    p = (image // patch) ** 2
    encoder = p * 2 * (3 * patch * patch * w) + enc * (p * 2 * (4 * w * w + 2 * w * mlp) + 4 * p * p * w)
    decoder = dec * (n * 2 * (4 * w * w + 2 * w * w + 2 * w * mlp) + p * 2 * 2 * w * w + 4 * n * n * w + 4 * n * p * w)
    return 3 * (encoder + decoder + n * 2 * w * vocab)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--preset", choices=PRESETS, default="tiny")
    a.add_argument("--batch", type=int, default=32, help="per process")
    a.add_argument("--steps", type=int, default=20)
    a.add_argument("--warmup", type=int, default=5)
    a.add_argument("--threads", type=int, default=1)
    a.add_argument("--device", default="cpu")
    a.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    a.add_argument("--compile", action="store_true")
    a.add_argument("--parallel", type=float, default=0.75)
    a.add_argument("--peak-tflops", type=float)
    a = a.parse_args()
    torch.manual_seed(0)
    world, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    cuda = a.device.startswith("cuda")
    if cuda:
        a.device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
        torch.cuda.set_device(a.device)
        torch.backends.cuda.matmul.allow_tf32 = True
    else:
        torch.set_num_threads(a.threads)
    if world > 1:
        dist.init_process_group("nccl" if cuda else "gloo")
    model = CapPa(a.preset, a.parallel).to(a.device)
    params = sum(p.numel() for p in model.parameters())
    step_model = nn.parallel.DistributedDataParallel(model, gradient_as_bucket_view=True) if world > 1 else model
    if a.compile:
        step_model = torch.compile(step_model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-4, fused=True)
    image = torch.randn(a.batch, 3, PRESETS[a.preset][0], PRESETS[a.preset][0], device=a.device)
    text = torch.randint(1, model.vocab, (a.batch, model.length), device=a.device)

    def step():
        with torch.autocast(a.device.split(":")[0], torch.bfloat16, enabled=a.precision == "bf16"):
            loss = step_model(image, text)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss

    sync = torch.cuda.synchronize if cuda else (lambda: None)
    for _ in range(a.warmup):
        loss = step()
    sync()
    times, cpu = [], time.process_time()
    for _ in range(a.steps):
        start = time.perf_counter()
        loss = step()
        sync()
        times.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / a.steps
    median = sorted(times)[len(times) // 2]
    images = a.batch * world / median
    flop = flop_per_image(a.preset)
    if rank == 0:
        print(json.dumps({
            "peer": "torch" + ("-compile" if a.compile else "-eager"), "torch": torch.__version__,
            "preset": a.preset, "device": a.device, "precision": a.precision, "world": world, "batch": a.batch,
            "params": params, "images_per_s": round(images, 2), "step_ms": round(median * 1e3, 3),
            "cpu_ms": round(cpu * 1e3, 3),
            "gflop_per_image": round(flop / 1e9, 3),
            "mfu": round(images / world * flop / (a.peak_tflops * 1e12), 4) if a.peak_tflops else None,
            "loss": round(loss.item(), 4),
            "peak_mib": round(torch.cuda.max_memory_allocated() / 2**20 if cuda
                              else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        }))
    if world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
