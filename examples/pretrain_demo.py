"""Makes the embedded CLIP: tokenizer, image processor, and contrastive pre-training on drawn shapes (CPU, minutes).

    python examples/pretrain_demo.py --output_dir my_clip

Without arguments it writes the files that the package ships (peft_mudpt/demo/clip). Seeded: the same machine gives the
same weights.
"""

from dataclasses import dataclass, field

from transformers import HfArgumentParser

from peft_mudpt import demo


# The captions of pre-training; a class name goes where the braces are.
CAPTIONS = ("{}.", "a {}.", "a photo of a {}.", "a picture of a {}.", "a drawing of a {}.", "this is a {}.")


@dataclass
class Arguments:
    output_dir: str = field(default=demo.MODEL_PATH, metadata={"help": "Where the model and its processor are saved."})
    images_per_class: int = field(default=100, metadata={"help": "Pictures of each class in each pre-training style."})
    max_steps: int = field(default=4000, metadata={"help": "Optimiser steps; each shows one picture of every class."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    seed: int = field(default=0, metadata={"help": "Seed of the pictures, the weights and the batches."})


def train_tokenizer():
    """A CLIP tokenizer with whole-word tokens for the captions; any other text falls back to its bytes."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    captions = [caption.format(name) for caption in CAPTIONS for name in demo.CLASS_NAMES]
    trainee = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trainee.pre_tokenizer = CLIPTokenizer().backend_tokenizer.pre_tokenizer
    trainee.train_from_iterator(captions, trainers.BpeTrainer(vocab_size=2000, end_of_word_suffix="</w>"))
    merges = [line.split() for line in _merges(trainee)]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocabulary, merges=[tuple(merge) for merge in merges], model_max_length=77)


def _merges(tokenizer) -> list[str]:
    import json

    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]


def main() -> None:
    arguments = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]

    import torch
    from tqdm import trange
    from transformers import CLIPConfig, CLIPModel, CLIPProcessor, get_cosine_schedule_with_warmup, set_seed
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    set_seed(arguments.seed)
    tokenizer = train_tokenizer()
    image_processor = CLIPImageProcessorPil(
        size={"shortest_edge": demo.SIZE}, crop_size={"height": demo.SIZE, "width": demo.SIZE}
    )
    config = CLIPConfig(
        text_config=dict(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=2,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        vision_config=dict(
            hidden_size=96,
            intermediate_size=384,
            num_hidden_layers=4,
            num_attention_heads=3,
            image_size=demo.SIZE,
            patch_size=8,
        ),
        projection_dim=48,
    )
    model = CLIPModel(config).train()
    print(f"{model.num_parameters():,} parameters")

    pictures = []  # (images_per_class * styles) x (classes, 3, H, W)
    for style in demo.PRETRAINING_STYLES:
        dataset = demo.load_pictures(style, arguments.images_per_class, seed=arguments.seed)
        pixels = image_processor(dataset["image"][:], return_tensors="pt").pixel_values
        pictures.append(pixels.unflatten(0, (len(demo.CLASS_NAMES), arguments.images_per_class)))  # (C, k, 3, H, W)
    pictures = torch.cat(pictures, dim=1)  # (C, styles * k, 3, H, W)
    texts = [
        tokenizer([caption.format(name) for name in demo.CLASS_NAMES], padding=True, return_tensors="pt")
        for caption in CAPTIONS
    ]

    optimizer = torch.optim.AdamW(model.parameters(), lr=arguments.learning_rate, weight_decay=0.05)
    schedule = get_cosine_schedule_with_warmup(optimizer, arguments.max_steps // 10, arguments.max_steps)
    classes = torch.arange(len(demo.CLASS_NAMES))
    bar = trange(arguments.max_steps)
    for _ in bar:
        drawn = torch.randint(pictures.shape[1], classes.shape)
        pixel_values = pictures[classes, drawn]  # (C, 3, H, W), one picture of every class
        text = texts[torch.randint(len(texts), ()).item()]
        loss = model(pixel_values=pixel_values, **text, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        bar.set_postfix(loss=f"{loss.item():.3f}")

    # half precision on disk keeps the file small; the config's dtype makes from_pretrained load it as float32
    model.half().save_pretrained(arguments.output_dir)
    config.dtype = torch.float32
    config.save_pretrained(arguments.output_dir)
    CLIPProcessor(image_processor, tokenizer).save_pretrained(arguments.output_dir)
    print(f"Saved to {arguments.output_dir}")


if __name__ == "__main__":
    main()
