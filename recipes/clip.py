"""Train `clip`: a tokeniser with a vocabulary of its own, and a CLIPModel on scenes and their captions.

About 25 minutes on 2 CPU cores; goes on where it was stopped.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
)

from course_utils import data, train
from recipes import common, score

STEPS, BATCH = 2500, 128
ABOUT = """How well a picture and a sentence fit each other, for drawn scenes of 64 x 64 pixels. Its text
encoder is that of `sd`."""
START, END = "<|startoftext|>", "<|endoftext|>"
LENGTH = 24  # of the captions while training; what follows the end token can't be seen from there
RECIPE = train.Recipe(steps=STEPS, learning_rate=1e-3, warmup_steps=100, ema_decay=0.998, weight_decay=0.05)


def train_tokenizer(captions, folder: Path) -> CLIPTokenizer:
    """Byte-pair encoding in CLIP's format: every byte is a token, so that no word is unknown."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    bytes_ = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.normalizer = normalizers.Lowercase()
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=2, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(merge) for merge in json.loads(bpe.to_str())["model"]["merges"]]
    words = [*bytes_, *(b + "</w>" for b in bytes_), *dict.fromkeys(map("".join, merges)), START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({word: i for i, word in enumerate(words)}, ensure_ascii=False), encoding="utf-8"
    )
    lines = "\n".join(" ".join(merge) for merge in merges)
    (folder / "merges.txt").write_text(f"#version: 0.2\n{lines}\n", encoding="utf-8")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, **special})
    )
    return CLIPTokenizer.from_pretrained(folder)


def network(tokenizer) -> CLIPModel:
    """An untrained CLIP: a text encoder 128 wide with 3 layers, a vision transformer 160 wide with 4."""
    end, start = tokenizer.eos_token_id, tokenizer.bos_token_id
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 77,
        "projection_dim": 96,
        "eos_token_id": end,
        "bos_token_id": start,
        "pad_token_id": end,
    }
    vision = {
        "hidden_size": 160,
        "intermediate_size": 480,
        "num_hidden_layers": 4,
        "num_attention_heads": 5,
        "image_size": 64,
        "patch_size": 8,
        "projection_dim": 96,
    }
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=96))


def loss(clip, batch, generator):
    """Which caption belongs to which picture: cross-entropy both ways (Radford et al. 2021, figure 3)."""
    tokens, x = batch
    logits = clip(input_ids=tokens, pixel_values=x).logits_per_image.float()
    wanted = torch.arange(len(x), device=x.device)
    return (nn.functional.cross_entropy(logits, wanted) + nn.functional.cross_entropy(logits.T, wanted)) / 2


def build() -> None:
    """Train it, save it with its card, and print how good it is."""
    torch.manual_seed(0)
    scenes = common.scenes(common.PICTURES)
    tokenizer = train_tokenizer(scenes.captions, common.RUNS / "tokenizer")
    tokens = tokenizer(
        list(scenes.captions), padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids

    def batch_at(n):
        chosen = common.rows(n, BATCH, common.PICTURES)
        return tokens[chosen], data.to_model(scenes.images[chosen])

    clip = common.fit("clip", network(tokenizer), RECIPE, batch_at, loss)
    clip.save_pretrained(common.RUNS / "clip-done")
    clip.eval()
    facts = {
        "right caption first among 100, held-out combinations": f"{caption_first(clip, tokenizer):.1%}",
        "the same with captions that leave things out": f"{caption_first(clip, tokenizer, full=False):.1%}",
    }
    # not as a CLIPProcessor: Transformers 4.51 can't read the processor_config.json that version 5 writes
    common.publish("clip", clip, ABOUT, facts, tokenizer, image_processor())


def image_processor() -> CLIPImageProcessor:
    """Pictures as CLIP wants them: 64 x 64 pixels in [-1, 1]."""
    half, size = [0.5, 0.5, 0.5], {"height": 64, "width": 64}
    return CLIPImageProcessor(size=size, crop_size=size, image_mean=half, image_std=half)


def load():
    """The finished text encoder and tokeniser, from runs/: see `build`."""
    text_encoder = CLIPTextModel.from_pretrained(common.RUNS / "clip-done").eval()
    return text_encoder, CLIPTokenizer.from_pretrained(common.RUNS / "tokenizer")


@torch.no_grad()
def caption_first(clip, tokenizer, full: bool = True, groups: int = 10) -> float:
    """Share of new scenes of held-out combinations whose own caption is the closest among 100.

    full: with captions that say everything; else with those of the scenes, which may fit others as well.
    """
    hits = 0
    for group in range(groups):
        scenes = data.scenes(100, seed=common.TEST_SEED, start=100 * group, combinations="held out")
        captions = score.captions_of(scenes.labels) if full else list(scenes.captions)
        tokens = tokenizer(captions, padding=True, return_tensors="pt").input_ids
        logits = clip(input_ids=tokens, pixel_values=data.to_model(scenes.images)).logits_per_image
        own = [captions.index(caption) for caption in captions]  # equal captions count as one
        hits += (logits.argmax(1) == torch.tensor(own)).sum().item()
    return hits / (100 * groups)
