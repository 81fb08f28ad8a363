"""Make the embedded CLIP: train its tokenizer, and pre-train its towers on drawn shapes (minutes on a CPU).

    python examples/pretrain_demo.py --output_dir my_clip

Without arguments it writes the files that the package ships (peft_mudpt/demo/clip). The same machine gives the same
weights, because the random numbers are seeded.

The contrastive loss has three parts: pictures and their captions, made-up names in two captions each, and made-up
pictures in two views each. The last two parts teach the CLIP to give different features to names and pictures that it
has never seen, so that few-shot learning can start from them.
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
    output_dir: str = field(default=demo.MODEL_PATH, metadata={"help": "Folder for the model and its processor."})
    images_per_class: int = field(default=100, metadata={"help": "Pictures of each class in each pre-training style."})
    max_steps: int = field(default=2800, metadata={"help": "Optimizer steps; each uses one picture of every class."})
    made_up: int = field(default=32, metadata={"help": "Number of made-up names and of made-up pictures in a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    seed: int = field(default=0, metadata={"help": "Seed of the pictures, the initial weights and the batches."})


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
    """A CLIP whose towers differ in width and depth, so that no code can assume that they are equal."""
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
    """Names of one or two words from six letters, so similar that each letter and its place must count."""
    letters = rng.choice(list("abcdefghijklmnopqrstuvwxyz"), 6, replace=False)

    def word() -> str:
        return "".join(rng.choice(letters, rng.integers(3, 9)))

    return [" ".join(word() for _ in range(rng.integers(1, 3))) for _ in range(count)]


def made_up_pictures(count: int) -> torch.Tensor:
    """Smooth color noise on several scales (count, 3, 2 * SIZE, 2 * SIZE), spread like normalized photographs."""
    pictures = torch.zeros(count, 3, 2 * demo.SIZE, 2 * demo.SIZE)
    for cells in (2, 4, 8, 16):
        strength = 2 * torch.rand(count, 1, 1, 1) ** 2
        noise = 2 * torch.rand(count, 3, cells, cells) - 1
        pictures += strength * interpolate(noise, size=pictures.shape[2:], mode="bicubic")
    return pictures


def random_view(pictures: torch.Tensor) -> torch.Tensor:
    """A random crop of each picture (N, 3, SIZE, SIZE): rotated, sometimes mirrored, with other brightness."""
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
    """Contrastive loss: each feature (N, D) of `first` must match its counterpart in `second`."""
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

    # float16 keeps the file small; the dtype in the config makes from_pretrained load the weights as float32
    model.half().save_pretrained(arguments.output_dir)
    model.config.dtype = torch.float32
    model.config.save_pretrained(arguments.output_dir)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(arguments.output_dir)
    print(f"Saved to {arguments.output_dir}")


if __name__ == "__main__":
    main()
