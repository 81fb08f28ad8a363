"""Make the embedded detector: pre-train a tiny MM-GroundingDINO on drawn scenes (under 30 minutes on two cores).

    python examples/pretrain_demo_detector.py --output_dir my_detector

Without arguments it writes the files that the package ships (peft_mudpt/demo/detector). The same machine gives the
same weights, because the random numbers are seeded.

Each step asks for other classes in another order, so that the detector must read the caption. The loss has a part that
transformers' does not have: the proposals of the encoder are compared with the boxes, because otherwise the layers
that make them would get no gradient and stay random.
"""

import copy
import time
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import (
    BertTokenizer,
    GroundingDinoProcessor,
    HfArgumentParser,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    get_cosine_schedule_with_warmup,
    set_seed,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

from peft_mudpt import demo
from peft_mudpt.detection import FusionDetector, per_picture_loss
from peft_mudpt.detection.boxes import centers
from peft_mudpt.detection.captions import BEGINNING, END, PADDING, PERIOD, QUESTION
from peft_mudpt.lab.average_precision import average_precision


FEWEST_CLASSES = 3  # in a caption of pre-training


@dataclass
class Arguments:
    output_dir: str = field(default=demo.DETECTOR_PATH, metadata={"help": "Folder for the model and its processor."})
    max_steps: int = field(default=5000, metadata={"help": "Optimizer steps."})
    batch_size: int = field(default=8, metadata={"help": "Scenes in a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate of AdamW."})
    save_steps: int = field(default=500, metadata={"help": "Steps between two tests, after which the best is saved."})
    seed: int = field(default=0, metadata={"help": "Seed of the scenes, the initial weights and the captions."})


def build_tokenizer() -> BertTokenizer:
    """BERT's ids for what splits captions; tokens for the words of the scenes, and letters for all other words."""
    ids = {PADDING: "[PAD]", 100: "[UNK]", BEGINNING: "[CLS]", END: "[SEP]", 103: "[MASK]", PERIOD: ".", QUESTION: "?"}
    characters = [chr(code) for code in range(33, 127) if chr(code) not in ".?" and not chr(code).isupper()]
    words = [*characters, *(f"##{own}" for own in characters if own.isalnum()), *demo.SCENE_CLASSES]
    free = (number for number in range(104, PERIOD) if number not in ids)
    ids |= dict(zip(free, words))
    return BertTokenizer(vocab={ids.get(i, f"[unused{i}]"): i for i in range(QUESTION + 1)})


def small_detector(tokenizer: BertTokenizer) -> MMGroundingDinoForObjectDetection:
    """A detector of about a million parameters. Its fusion layers are four times as wide inside, as published."""
    backbone = dict(
        model_type="swin",
        image_size=demo.SCENE_SIZE,
        embed_dim=16,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 4, 8],
        window_size=4,
        mlp_ratio=2.0,
        drop_path_rate=0.0,
        out_indices=[2, 3, 4],
    )
    text = dict(
        model_type="bert",
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    config = MMGroundingDinoConfig(
        backbone_config=backbone,
        text_config=text,
        d_model=64,
        encoder_layers=2,
        encoder_ffn_dim=512,
        encoder_attention_heads=4,
        decoder_layers=2,
        decoder_ffn_dim=128,
        decoder_attention_heads=4,
        num_feature_levels=3,
        num_queries=12,
        dropout=0.0,
        fusion_droppath=0.0,
    )
    model = MMGroundingDinoForObjectDetection(config)
    with torch.no_grad():
        for layer in model.model.encoder.layers:  # transformers starts at 0.0001, from which a short training is slow
            layer.fusion_layer.vision_param.fill_(0.5)
            layer.fusion_layer.text_param.fill_(0.5)
        for head in (model.model.encoder_output_class_embed, *model.class_embed):
            head.bias.fill_(-4)  # most queries find nothing, as the focal loss expects (arXiv 1708.02002, section 4.1)
    return model


class ProposalLoss:
    """The loss of a detector, with the proposals of its encoder in place of copies without gradient."""

    def __init__(self, model: MMGroundingDinoForObjectDetection):
        self._number = model.config.num_queries
        model.model.register_forward_hook(self._remember)
        model.config.auxiliary_loss = True
        model.loss_function = self

    def _remember(self, module, inputs, outputs) -> None:
        self._logits, self._boxes = outputs.enc_outputs_class, outputs.enc_outputs_coord_logits.sigmoid()

    def __call__(self, *args, encoder_logits, encoder_pred_boxes, **kwargs):
        best = self._logits.amax(dim=-1).topk(self._number).indices[..., None]  # (B, Q, 1), as the detector chooses
        return per_picture_loss(
            *args,
            **kwargs,
            encoder_logits=self._logits.take_along_dim(best, dim=1),
            encoder_pred_boxes=self._boxes.take_along_dim(best, dim=1),
            reduction="mean",
        )


class TrainingScenes(torch.utils.data.Dataset):
    """
    The batches of a run. Each has its own random scenes, and a caption of some of their classes; shapes of other
    classes are not to be found. A batch depends on the seed and its index only.
    """

    def __init__(self, batch_size: int, length: int, seed: int, tokenizer: BertTokenizer, image_processor):
        self.batch_size, self.length, self.seed = batch_size, length, seed
        self.tokenizer, self.image_processor = tokenizer, image_processor

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        rng = np.random.default_rng([self.seed, index])
        scenes = [demo.paint_scene(demo.SCENE_PRETRAINING_STYLE, rng) for _ in range(self.batch_size)]
        number = rng.integers(FEWEST_CLASSES, len(demo.SCENE_CLASSES) + 1)
        names = rng.permutation(demo.SCENE_CLASSES)[:number].tolist()
        text = self.tokenizer([" ".join(f"{name}." for name in names)] * self.batch_size, return_tensors="pt")
        pictures = self.image_processor([scene.picture for scene in scenes], return_tensors="pt")
        labels = [labels_of(scene, names) for scene in scenes]
        return {"pixel_values": pictures.pixel_values, **text, "labels": labels}


def labels_of(scene: demo.Scene, names: list[str]) -> dict[str, torch.Tensor]:
    wanted = [(names.index(name), box) for name, box in zip(scene.class_names, scene.boxes) if name in names]
    boxes = torch.tensor([box for _, box in wanted]).reshape(-1, 4) / demo.SCENE_SIZE  # (n, 4)
    return {"class_labels": torch.tensor([label for label, _ in wanted], dtype=torch.long), "boxes": centers(boxes)}


def average_precision_on(style: str, detector: FusionDetector, number: int, seed: int) -> float:
    pictures = demo.load_scenes(style, number, seed)
    found = detector.predict(pictures["image"], threshold=0, batch_size=50)
    return average_precision(pictures, found, demo.SCENE_CLASSES).map


def save(model: MMGroundingDinoForObjectDetection, processor: GroundingDinoProcessor, folder: str) -> None:
    """Save the detector: float16 keeps the file small, and the dtype in the config makes it load as float32."""
    config = copy.deepcopy(model.config)
    config.auxiliary_loss = False
    saved = MMGroundingDinoForObjectDetection(config)
    saved.load_state_dict(model.state_dict())
    saved.half().save_pretrained(folder)
    saved.config.dtype = torch.float32
    saved.config.save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> None:
    arguments = HfArgumentParser(Arguments, description=__doc__.partition("\n")[0]).parse_args_into_dataclasses()[0]
    torch.set_num_threads(1)  # the tensors are too small for more, and another number gives slightly other weights
    set_seed(arguments.seed)
    tokenizer = build_tokenizer()
    image_processor = GroundingDinoImageProcessorPil(
        size={"shortest_edge": demo.SCENE_SIZE, "longest_edge": 2 * demo.SCENE_SIZE}
    )
    processor = GroundingDinoProcessor(image_processor, tokenizer)
    model = small_detector(tokenizer)
    detector = FusionDetector(model, demo.SCENE_CLASSES, tokenizer, image_processor)
    print(f"{model.num_parameters():,} parameters")
    optimizer = torch.optim.AdamW(model.parameters(), arguments.learning_rate, weight_decay=1e-4, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, arguments.max_steps // 25, arguments.max_steps)
    ProposalLoss(model)
    scenes = TrainingScenes(arguments.batch_size, arguments.max_steps, arguments.seed, tokenizer, image_processor)
    begin, mean, best = time.monotonic(), 0.0, 0.0
    # one process draws, the other one learns
    for step, batch in enumerate(torch.utils.data.DataLoader(scenes, batch_size=None, num_workers=1), start=1):
        value = model.train()(**batch).loss
        value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        mean += 0.02 * (value.item() - mean)
        if step % 50 == 0:
            print(f"step {step}: loss {mean:.2f}, {time.monotonic() - begin:.0f} s", flush=True)
        if step % arguments.save_steps == 0 or step == arguments.max_steps:
            measured = average_precision_on(demo.SCENE_PRETRAINING_STYLE, detector, 150, seed=10_000)
            print(f"step {step}: AP {measured:.3f}", flush=True)
            if measured > best:
                best = measured
                save(model, processor, arguments.output_dir)
    print(f"Saved to {arguments.output_dir}: AP {best:.3f}")


if __name__ == "__main__":
    main()
