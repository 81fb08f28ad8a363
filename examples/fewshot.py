"""Adapt a CLIP to a few pictures of each class, and see what it gained.

    accelerate launch examples/fewshot.py                                   # the embedded world, no network needed
    accelerate launch examples/fewshot.py --train_dir my_pictures --model_name_or_path openai/clip-vit-base-patch16

`--train_dir` holds one folder of pictures per class, named after it. What is not drawn for training is the test set.
"""

import time
from dataclasses import dataclass, field
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
    per_device_train_batch_size: int = field(default=32, metadata={"help": "Pictures per device and step."})
    per_device_eval_batch_size: int = field(default=100, metadata={"help": "Pictures per device when testing."})
    learning_rate: float = field(default=0.0025, metadata={"help": "Peak learning rate of SGD, annealed by a cosine."})
    weight_decay: float = field(default=5e-4, metadata={"help": "Weight decay of SGD."})
    num_train_epochs: int = field(default=10, metadata={"help": "How often each training picture is seen."})
    max_train_steps: Optional[int] = field(default=None, metadata={"help": "Stop after so many steps instead."})
    mixed_precision: Optional[str] = field(default=None, metadata={"help": "no, fp16 or bf16, as in accelerate."})


def load_data(arguments: Arguments):
    """The few training pictures and the test pictures, with columns `image` and `label`, and the class names."""
    from datasets import load_dataset

    from peft_mudpt.sampling import sample_few_shot

    if arguments.train_dir is None:
        pool = demo.load_pictures(demo.ADAPTATION_STYLE, images_per_class=32, seed=1)
        test = demo.load_pictures(demo.ADAPTATION_STYLE, images_per_class=10, seed=2)
    else:
        pool, test = load_dataset("imagefolder", data_dir=arguments.train_dir, split="train"), None
    drawn = sample_few_shot(pool["label"][:], arguments.shots, arguments.seed)
    if test is None:
        test = pool.select(sorted(set(range(len(pool))) - set(drawn)))
    class_names = [name.replace("_", " ") for name in pool.features["label"].names]
    return pool.select(drawn), test, class_names


def train(accelerator, model, class_tokens, loader, arguments: Arguments):
    """Cross-entropy of the images against all classes; only the adapter learns. Returns the prepared model."""
    import torch
    from torch.nn.functional import cross_entropy
    from tqdm import tqdm
    from transformers import get_cosine_schedule_with_warmup

    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(
        trainable, lr=arguments.learning_rate, momentum=0.9, weight_decay=arguments.weight_decay
    )
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    steps = arguments.max_train_steps or arguments.num_train_epochs * len(loader)
    # accelerate steps the schedule once per process
    schedule = accelerator.prepare(
        get_cosine_schedule_with_warmup(
            optimizer, steps // 20 * accelerator.num_processes, steps * accelerator.num_processes
        )
    )
    model.train()
    batches = (batch for _ in range(steps) for batch in loader)  # more than enough epochs
    bar = tqdm(range(steps), desc="training", disable=not accelerator.is_local_main_process)
    for _, batch in zip(bar, batches):
        logits = model(**class_tokens, pixel_values=batch["pixel_values"]).logits_per_image  # (B, C)
        loss = cross_entropy(logits, batch["labels"])
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        bar.set_postfix(loss=f"{loss.item():.3f}")
    return accelerator.unwrap_model(model)


def evaluate(accelerator, model, class_tokens, loader) -> float:
    """Accuracy on the test pictures, in percent. The classes are encoded once."""
    import torch

    from peft_mudpt.classifier import classify, encode_classes

    model.eval()
    correct = []
    with torch.no_grad(), accelerator.autocast():
        class_features = encode_classes(model, class_tokens)
        for batch in loader:
            predictions = classify(model, batch["pixel_values"], class_features).argmax(dim=-1)
            correct.append(accelerator.gather_for_metrics(predictions == batch["labels"]))
    return 100 * torch.cat(correct).float().mean().item()


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

    def load_clip():
        return CLIPModel.from_pretrained(arguments.model_name_or_path, dtype=torch.float32)

    config = MuDPTConfig.from_preset(arguments.method, tokenizer_name_or_path=arguments.model_name_or_path)
    config.text_prompt_init_text, after_prompts = split_template(
        arguments.template, tokenizer, config.num_tokens("text")
    )
    model = get_peft_model(load_clip(), config).to(accelerator.device)
    trainable, total = model.get_nb_trainable_parameters()
    accelerator.print(f"{arguments.method}: {trainable:,} trainable parameters of {total:,}")
    accelerator.print(f"{len(class_names)} classes, {len(train_set):,} training and {len(test_set):,} test pictures")

    train_loader = DataLoader(train_set, arguments.per_device_train_batch_size, shuffle=True, collate_fn=collate)
    test_loader = accelerator.prepare(
        DataLoader(test_set, arguments.per_device_eval_batch_size, collate_fn=collate)
    )
    whole = {name: ids.to(accelerator.device) for name, ids in tokenize_classes(tokenizer, class_names, arguments.template).items()}
    class_tokens = {name: ids.to(accelerator.device) for name, ids in tokenize_classes(tokenizer, class_names, after_prompts).items()}

    with model.disable_adapter():
        zero_shot = evaluate(accelerator, model, whole, test_loader)
    accelerator.print(f"zero-shot accuracy  {zero_shot:.1f} %")
    model = train(accelerator, model, class_tokens, train_loader, arguments)
    accuracy = evaluate(accelerator, model, class_tokens, test_loader)
    accelerator.print(f"{arguments.method} accuracy  {accuracy:.1f} %")

    if accelerator.is_main_process:
        model.save_pretrained(arguments.output_dir)
        reloaded = PeftModel.from_pretrained(load_clip(), arguments.output_dir).to(accelerator.device).eval()
        pixel_values = next(iter(test_loader))["pixel_values"]
        with torch.no_grad():
            before, after = (m(**class_tokens, pixel_values=pixel_values).logits_per_image for m in (model, reloaded))
        if not torch.equal(before, after):
            raise RuntimeError("the reloaded adapter gives other logits")
        print(f"saved to {arguments.output_dir}, reloaded: equal logits")
        print(f"{time.perf_counter() - started:.0f} seconds")


if __name__ == "__main__":
    main()
