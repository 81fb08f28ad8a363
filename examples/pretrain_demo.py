"""Makes the embedded CLIP: tokenizer, image processor, and contrastive pre-training on drawn shapes (CPU, minutes).

    python examples/pretrain_demo.py --output_dir my_clip

Without arguments it writes the files that the package ships (peft_mudpt/demo/clip). Seeded: the same machine gives the
same weights.

Beside pictures with their captions it contrasts made-up names in two captions, and made-up pictures in two views:
names and pictures of any kind then have features of their own, from which few-shot learning can start.
"""

import json
from dataclasses import dataclass, field

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, interpolate, normalize
from tqdm import trange
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    HfArgumentParser,
    get_cosine_schedule_with_warmup,
    set_seed,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from peft_mudpt import demo


# The captions of pre-training; a class name goes where the braces are.
CAPTIONS = ("{}.", "a {}.", "a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "this is a {}.")


@dataclass
class Arguments:
    output_dir: str = field(default=demo.MODEL_PATH, metadata={"help": "Where the model and its processor are saved."})
    images_per_class: int = field(default=100, metadata={"help": "Pictures of each class in each pre-training style."})
    max_steps: int = field(default=2800, metadata={"help": "Optimiser steps; each shows one picture of every class."})
    made_up: int = field(default=32, metadata={"help": "Made-up names, and made-up pictures, in a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    seed: int = field(default=0, metadata={"help": "Seed of the pictures, the weights and the batches."})


def train_tokenizer() -> CLIPTokenizer:
    """A CLIP tokenizer with whole-word tokens for the captions; any other text falls back to its bytes."""
    captions = [caption.format(name) for caption in CAPTIONS for name in demo.CLASS_NAMES]
    trainee = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainee.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    trainee.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>"))
    merges = [tuple(merge) for merge in json.loads(trainee.to_str())["model"]["merges"]]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77)


def small_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """Towers of unequal width and depth, so that nothing can rely on their being equal."""
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = dict(
        hidden_size=96,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=3,
        image_size=demo.SIZE,
        patch_size=8,
    )
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def made_up_names(count: int, rng: np.random.Generator) -> list[str]:
    """One or two words of few letters each: alike enough that every letter and its place count."""
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 6, replace=False)

    def word() -> str:
        return "".join(rng.choice(letters, rng.integers(3, 9)))

    return [" ".join(word() for _ in range(rng.integers(1, 3))) for _ in range(count)]


def made_up_pictures(count: int) -> torch.Tensor:
    """Smooth colours on several scales, (count, 3, 2 * SIZE, 2 * SIZE), about as spread as normalised photographs."""
    pictures = torch.zeros(count, 3, 2 * demo.SIZE, 2 * demo.SIZE)
    for cells in (2, 4, 8, 16):
        strength = 2 * torch.rand(count, 1, 1, 1) ** 2
        noise = 2 * torch.rand(count, 3, cells, cells) - 1
        pictures += strength * interpolate(noise, size=pictures.shape[2:], mode="bicubic")
    return pictures


def random_view(pictures: torch.Tensor) -> torch.Tensor:
    """A piece of each picture (N, 3, SIZE, SIZE): cut out, turned, perhaps mirrored, in other light."""
    count = len(pictures)
    angle, scale = (torch.rand(count) - 0.5) / 2, 0.5 + 0.4 * torch.rand(count)
    mirror = 1 - 2 * torch.randint(2, (count,))
    shift = 1.2 * (torch.rand(2, count) - 0.5) * (1 - scale)
    rows = [
        torch.stack([scale * angle.cos() * mirror, -scale * angle.sin(), shift[0]], dim=1),  # (N, 3)
        torch.stack([scale * angle.sin() * mirror, scale * angle.cos(), shift[1]], dim=1),
    ]
    grid = affine_grid(torch.stack(rows, dim=1), (count, 3, demo.SIZE, demo.SIZE), align_corners=False)
    view = grid_sample(pictures, grid, padding_mode="reflection", align_corners=False)
    contrast, brightness = 0.3 * (torch.rand(2, count, 1, 1, 1) - 0.5)
    return view * (1 + contrast) + brightness


def contrast(model: CLIPModel, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Each of the features (N, D) finds its counterpart among the others."""
    logits = model.logit_scale.exp() * normalize(first, dim=-1) @ normalize(second, dim=-1).t()  # (N, N)
    return cross_entropy(logits, torch.arange(len(first)))


def main() -> None:
    arguments = HfArgumentParser(Arguments, description=__doc__.partition("\n")[0]).parse_args_into_dataclasses()[0]
    set_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    tokenizer = train_tokenizer()
    size = {"height": demo.SIZE, "width": demo.SIZE}
    image_processor = CLIPImageProcessorPil(size={"shortest_edge": demo.SIZE}, crop_size=size)
    model = small_clip(tokenizer).train()
    print(f"{model.num_parameters():,} parameters")

    def text_features(caption: str, names: list[str]) -> torch.Tensor:
        tokens = tokenizer([caption.format(name) for name in names], padding=True, return_tensors="pt")
        return model.get_text_features(**tokens).pooler_output  # (N, D)

    def image_features(pixel_values: torch.Tensor) -> torch.Tensor:
        return model.get_image_features(pixel_values).pooler_output  # (N, D)

    pictures = []
    for style in demo.PRETRAINING_STYLES:
        dataset = demo.load_pictures(style, arguments.images_per_class, seed=arguments.seed)
        pixels = image_processor(dataset["image"][:], return_tensors="pt").pixel_values
        pictures.append(pixels.unflatten(0, (len(demo.CLASS_NAMES), arguments.images_per_class)))
    pictures = torch.cat(pictures, dim=1)  # (C, styles * images_per_class, 3, H, W)

    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, arguments.max_steps // 10, arguments.max_steps)
    classes = torch.arange(len(demo.CLASS_NAMES))
    bar = trange(arguments.max_steps)
    for _ in bar:
        drawn = pictures[classes, torch.randint(pictures.shape[1], classes.shape)]  # one of every class: (C, 3, H, W)
        images, texts = image_features(drawn), text_features(rng.choice(CAPTIONS), demo.CLASS_NAMES)
        loss = (contrast(model, images, texts) + contrast(model, texts, images)) / 2
        names, noise = made_up_names(arguments.made_up, rng), made_up_pictures(arguments.made_up)
        loss = loss + contrast(model, *(text_features(caption, names) for caption in rng.choice(CAPTIONS, 2)))
        loss = loss + contrast(model, *(image_features(random_view(noise)) for _ in range(2)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")

    # half precision on disk keeps the file small; the config's dtype makes from_pretrained load it as float32
    model.half().save_pretrained(arguments.output_dir)
    model.config.dtype = torch.float32
    model.config.save_pretrained(arguments.output_dir)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(arguments.output_dir)
    print(f"Saved to {arguments.output_dir}")


if __name__ == "__main__":
    main()
