"""Trains models and writes them to the folder in argv[1] with the ids that SentencePiece gives: `NAME.model`, `NAME.json`."""
import json
import pathlib
import random
import sys

import sentencepiece

folder = pathlib.Path(sys.argv[1])
random.seed(0)
NOUNS = "star ring square triangle cat dog café naïve house river mountain straße übung 東京 日本語 кот дом".split()
WORDS = "a the small large red blue green striped left right of above below under with and in on very two three".split()
SENTENCES = [" ".join(random.choice(WORDS if random.random() < 0.7 else NOUNS) for _ in range(random.randint(3, 14))) for _ in range(3000)]

TEXTS = SENTENCES[:200] + [
    "", " ", "   ", "a", " a  b ", "\t\n tabs \n and\r\nlines ", "ＦＵＬＬ ｗｉｄｔｈ ﬁ ligature ½ ², ①", "e\u0301 combining cafe\u0301", "zero\u200bwidth \ufeffbom \u00adsoft",
    "🙂 👩‍👩‍👧‍👦 🇩🇪 emoji", "한국어 텍스트 각", "ﷺ ﷲ arabic العربية", "नमस्ते ก็", "▁ ▁▁ meta ▁a", "</s> <unk> <pad> <s> <0x41> a</s>b", "\u3000ideographic\u3000space\u3000", "\u00a0nbsp\u00a0\u00a0x",
    "unknown ☃☃☃ characters ☃a☃", "a" * 300, "star" * 40, "\x00nul\x01control\x7f", "İstanbul ǅ ŉ", "ᾳ ΐ ŷ̈", "0 12 345.6, 7-8!? (9) [x] {y} \"q\" 'z'", "…—–‐ ‘quotes’ “double”",
]


def train(name, **options):
    model = folder / f"{name}.model"
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(SENTENCES), model_prefix=str(folder / name), minloglevel=2, hard_vocab_limit=False, **options)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    texts = [text.lower() for text in TEXTS]
    (folder / f"{name}.json").write_text(json.dumps({
        "eos": processor.eos_id(), "pad": processor.pad_id(), "bos": processor.bos_id(), "vocabulary": processor.get_piece_size(),
        "texts": texts, "ids": [processor.encode(text) for text in texts], "decoded": [processor.decode(processor.encode(text)) for text in texts],
    }))


paper = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
train("unigram-paper", model_type="unigram", vocab_size=220, **paper)
train("unigram-default", model_type="unigram", vocab_size=220)
train("unigram-bytes", model_type="unigram", vocab_size=500, byte_fallback=True, character_coverage=0.98, **paper)
train("unigram-user", model_type="unigram", vocab_size=220, user_defined_symbols=["<image>", "star r"], **paper)
train("unigram-identity", model_type="unigram", vocab_size=220, normalization_rule_name="identity", add_dummy_prefix=False, **paper)
train("unigram-spaces", model_type="unigram", vocab_size=220, remove_extra_whitespaces=False, **paper)
train("bpe-paper", model_type="bpe", vocab_size=220, **paper)
train("bpe-default", model_type="bpe", vocab_size=300)
train("bpe-bytes", model_type="bpe", vocab_size=500, byte_fallback=True, character_coverage=0.98, **paper)
