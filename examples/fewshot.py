"""Adapt a CLIP to a few pictures of each class, and see what it gained.

    accelerate launch examples/fewshot.py                                   # the embedded world, no network needed
    accelerate launch examples/fewshot.py --train_dir my_pictures --model_name_or_path openai/clip-vit-base-patch16

`--train_dir` holds one folder of pictures per class, named after it. What is not drawn for training is the test set.
"""

import glob
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from transformers import HfArgumentParser

from peft_mudpt import demo


@dataclass
class Arguments:
    model_name_or_path: str = field(
        default=demo.MODEL_PATH, metadata={"help": "Any CLIP: a Hub id or a folder. Default: the embedded one."}
    )
    train_dir: Optional[str] = field(
        default=None, metadata={"help": "A folder with one folder of pictures per class. Default: drawn shapes."}
    )
    output_dir: str = field(default="outputs/fewshot", metadata={"help": "Where the adapter is saved."})
    method: str = field(default="mudpt", metadata={"help": "A preset of MuDPTConfig: mudpt, maple, ivlp, coop, ..."})
    shots: int = field(default=16, metadata={"help": "Training pictures per class."})
    template: str = field(
        default="a photo of a {}.",
        metadata={"help": "Text of a class. Text prompts start from its first words; the rest stands after them."},
    )
    seed: int = field(default=1, metadata={"help": "Seed of the draw, of the weights and of the batches."})
    per_device_train_batch_size: int = field(default=8, metadata={"help": "Pictures per device and step."})
    per_device_eval_batch_size: int = field(default=100, metadata={"help": "Pictures per device when testing."})
    learning_rate: float = field(default=0.0025, metadata={"help": "Peak learning rate of SGD, annealed by a cosine."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay of SGD."})
    num_train_epochs: int = field(default=5, metadata={"help": "How often each training picture is seen, at least."})
    min_train_steps: int = field(
        default=1200, metadata={"help": "Few pictures are seen more often: in so many steps."}
    )
    max_train_steps: Optional[int] = field(default=None, metadata={"help": "Train for exactly so many steps instead."})
    mixed_precision: Optional[str] = field(default=None, metadata={"help": "no, fp16 or bf16, as in accelerate."})


def check(arguments: Arguments) -> None:
    """Refuse now what would otherwise fail after minutes of work."""
    if arguments.train_dir is not None and not Path(arguments.train_dir).is_dir():
        raise ValueError(f"--train_dir {arguments.train_dir} is no folder.")
    if Path(arguments.output_dir).is_file():
        raise ValueError(f"--output_dir {arguments.output_dir} is a file; give a folder.")
    if arguments.max_train_steps is not None and arguments.max_train_steps < 1:
        raise ValueError(
            f"--max_train_steps {arguments.max_train_steps} is too few; give at least 1, or leave it out."
        )


def load_data(arguments: Arguments):
    """The few training pictures and the test pictures, with columns `image` and `label`, and the class names."""
    from datasets import load_dataset

    from peft_mudpt.sampling import sample_few_shot

    if arguments.train_dir is None:
        pool = demo.load_pictures(demo.ADAPTATION_STYLE, images_per_class=32, seed=1)
        test = demo.load_pictures(demo.ADAPTATION_STYLE, images_per_class=10, seed=2)
    else:
        # a pattern, since by data_dir a class called "train" would be taken for a split
        pattern = f"{glob.escape(arguments.train_dir)}/*/*"
        folders = "--train_dir must hold a folder of pictures for each class, at least two"
        try:
            pool, test = load_dataset("imagefolder", data_files={"train": pattern}, split="train"), None
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(
                f"{folders}; {arguments.train_dir} has no picture in any (links to folders are not followed)."
            ) from error
        if "label" not in pool.column_names:
            raise ValueError(f"{folders}; {arguments.train_dir} holds one.")
    drawn = sample_few_shot(pool["label"][:], arguments.shots, arguments.seed)
    if test is None:
        test = pool.select(sorted(set(range(len(pool))) - set(drawn)))
    class_names = [name.replace("_", " ") for name in pool.features["label"].names]
    return pool.select(drawn), test, class_names


def train(accelerator, model, class_tokens, loader, arguments: Arguments) -> None:
    """Cross-entropy of the images against all classes; only the adapter learns."""
    import torch
    from torch.nn.functional import cross_entropy
    from tqdm import tqdm
    from transformers import get_cosine_schedule_with_warmup

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        trainable, lr=arguments.learning_rate, momentum=0.9, weight_decay=arguments.weight_decay
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps = arguments.max_train_steps
    if steps is None:
        steps = max(arguments.min_train_steps, arguments.num_train_epochs * len(loader))
    processes = accelerator.num_processes  # accelerate steps the schedule once for each
    schedule = accelerator.prepare(
        get_cosine_schedule_with_warmup(optimizer, steps // 20 * processes, steps * processes)
    )
    model.train()
    batches = (batch for _ in range(steps) for batch in loader)  # one epoch after the other, more than enough
    bar = tqdm(range(steps), desc="training", disable=not accelerator.is_local_main_process)
    for _, batch in zip(bar, batches):
        logits = model(**class_tokens, pixel_values=batch["pixel_values"]).logits_per_image  # (B, C)
        loss = cross_entropy(logits, batch["labels"])
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # autocast was for training


def evaluate(accelerator, model, class_tokens, loader) -> str:
    """Accuracy on the test pictures. The classes are encoded once."""
    import torch

    from peft_mudpt.classifier import classify, encode_classes

    if len(loader.dataset) == 0:
        return "no picture is left to test on: lower --shots"
    model.eval()
    correct = []
    with torch.no_grad(), accelerator.autocast():
        class_features = encode_classes(model, class_tokens)
        for batch in loader:
            predictions = classify(model, batch["pixel_values"], class_features).argmax(dim=-1)
            correct.append(accelerator.gather_for_metrics(predictions == batch["labels"]))
    return f"{100 * torch.cat(correct).float().mean().item():.1f} %"


def main() -> None:
    arguments = HfArgumentParser(Arguments).parse_args_into_dataclasses()[0]

    import torch
    from accelerate import Accelerator
    from accelerate.utils import set_seed
    from peft import PeftModel, get_peft_model
    from torch.utils.data import DataLoader
    from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel

    from peft_mudpt import MuDPTConfig
    from peft_mudpt.classifier import split_template, tokenize_classes

    check(arguments)
    config = MuDPTConfig.from_preset(arguments.method)
    accelerator = Accelerator(mixed_precision=arguments.mixed_precision)
    started = time.perf_counter()
    set_seed(arguments.seed)
    train_set, test_set, class_names = load_data(arguments)
    tokenizer = AutoTokenizer.from_pretrained(arguments.model_name_or_path)
    image_processor = AutoImageProcessor.from_pretrained(arguments.model_name_or_path, backend="pil")

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        images = [row["image"].convert("RGB") for row in rows]
        pixel_values = image_processor(images, return_tensors="pt").pixel_values  # (B, 3, H, W)
        return {"pixel_values": pixel_values, "labels": torch.tensor([row["label"] for row in rows])}

    def class_tokens(template: str) -> dict[str, torch.Tensor]:
        tokens = tokenize_classes(tokenizer, class_names, template)
        return {name: tensor.to(accelerator.device) for name, tensor in tokens.items()}

    def load_clip() -> CLIPModel:
        clip = CLIPModel.from_pretrained(arguments.model_name_or_path, dtype=torch.float32)
        return clip.to(accelerator.device)

    init_text, after_prompts = split_template(arguments.template, tokenizer, config.num_tokens("text"))
    config.text_prompt_init_text = init_text
    model = get_peft_model(load_clip(), config)
    trainable, total = model.get_nb_trainable_parameters()
    accelerator.print(f"method                {arguments.method}")
    accelerator.print(f"trainable parameters  {trainable:,} of {total:,}")
    accelerator.print(f"text after prompts    {after_prompts}")
    accelerator.print(f"classes               {len(class_names)}")
    accelerator.print(f"training pictures     {len(train_set):,}")
    accelerator.print(f"test pictures         {len(test_set):,}")

    train_loader = DataLoader(train_set, arguments.per_device_train_batch_size, shuffle=True, collate_fn=collate)
    test_loader = DataLoader(test_set, arguments.per_device_eval_batch_size, collate_fn=collate)
    test_loader = accelerator.prepare(test_loader)
    with model.disable_adapter():
        zero_shot = evaluate(accelerator, model, class_tokens(arguments.template), test_loader)
    accelerator.print(f"zero-shot accuracy    {zero_shot}")
    train(accelerator, model, class_tokens(after_prompts), train_loader, arguments)
    accuracy = evaluate(accelerator, model, class_tokens(after_prompts), test_loader)
    accelerator.print(f"accuracy after        {accuracy}")

    if accelerator.is_main_process:
        model.save_pretrained(arguments.output_dir)
        print(f"adapter saved to      {arguments.output_dir}")
        reloaded = PeftModel.from_pretrained(load_clip(), arguments.output_dir).eval()
        pixel_values = collate([train_set[0]])["pixel_values"].to(accelerator.device)
        with torch.no_grad():
            logits = [m(**class_tokens(after_prompts), pixel_values=pixel_values) for m in (model.eval(), reloaded)]
        if not torch.equal(logits[0].logits_per_image, logits[1].logits_per_image):
            raise RuntimeError(
                f"The adapter reloaded from {arguments.output_dir} gives other logits than the trained."
            )
        print("reloaded              equal logits")
        print(f"seconds               {time.perf_counter() - started:.0f}")


if __name__ == "__main__":
    main()
