"""pip install --no-deps --target SITE pycocoevalcap numpy; PYTHONPATH=SITE python3 reference.py > reference.json

Captions of a made-up corpus and what pycocoevalcap says of them. The words are tokens already: its tokenizer is a Java
program that is not run here.
"""
import json
import random

from pycocoevalcap.bleu.bleu import Bleu
from pycocoevalcap.cider.cider import Cider

random.seed(7)
SIZES, COLOURS = ["small", "large"], ["red", "green", "blue", "yellow"]
SHAPES, PLACES = ["circle", "square", "star", "ring"], ["above", "below", "left of", "inside"]


def thing():
    return f"a {random.choice(SIZES)} {random.choice(COLOURS)} {random.choice(SHAPES)}"


def caption():
    return thing() if random.random() < 0.4 else f"{thing()} {random.choice(PLACES)} {thing()}"


def spoilt(text):
    words = text.split()
    for _ in range(random.randrange(4)):
        place = random.randrange(len(words))
        change = random.choice(["drop", "swap", "add"])
        if change == "drop" and len(words) > 1:
            del words[place]
        elif change == "swap":
            words[place] = random.choice(COLOURS + SHAPES)
        else:
            words.insert(place, random.choice(SIZES))
    return " ".join(words)


references = {i: [caption() for _ in range(random.randrange(1, 5))] for i in range(40)}
candidates = {i: [spoilt(refs[0])] for i, refs in references.items()}
candidates[3], candidates[5] = [""], ["nothing of the kind"]
bleu, _ = Bleu(4).compute_score(references, candidates, verbose=0)
cider, each = Cider().compute_score(references, candidates)
json.dump(
    {
        "samples": [{"candidate": candidates[i][0], "references": references[i]} for i in references],
        "bleu": bleu,
        "cider_d": float(cider),
        "cider_d_of_each": [float(score) for score in each],
    },
    open("/dev/stdout", "w"),
    indent=1,
)
