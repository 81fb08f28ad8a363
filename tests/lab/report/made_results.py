"""Made-up results of experiments, and a reader of the tables in a report."""

from peft_mudpt.lab.schema import LATER, NEW


def counts(**right) -> dict:
    """Metrics of a test set with 10 pictures per class, from the number of correct ones in each class."""
    accuracy = 10 * sum(right.values()) / len(right)
    classes = {name: [count, 10] for name, count in right.items()}
    return {"accuracy": accuracy, "mean_class_accuracy": accuracy, "classes": classes}


def result(method="mudpt", accuracy=80.0, shots=4, seed=1, dataset="dtd", **changes) -> dict:
    """A result of the few-shot protocol. `changes` replace fields of the result or of its arguments."""
    made = {
        **dict.fromkeys((*NEW, *LATER)),
        "arguments": {
            "model_name_or_path": "some/clip",
            "train_dir": None,
            "max_train_steps": None,
            "method": method,
            "method_kwargs": None,
            "optimizer": None,
            "protocol": "few-shot",
            "shots": shots,
            "seed": seed,
            "evaluate_on": "test",
            "warmup": "linear",
        },
        "dataset": dataset,
        "method": method,
        "class_names": ["cat", "dog"],
        "template": "a photo of a {}.",
        "template_after_prompts": "{}.",
        "items": {"train": [], "validation": []},
        "training_pictures": {"cat": shots, "dog": shots},
        "metrics": {"test": {**counts(cat=9, dog=7), "accuracy": accuracy}},
        "zero_shot": {"test": counts(cat=5, dog=9)},
        "summary": {"accuracy": accuracy},
        "optimizer": "sgd",
        "learning_rate": 0.0025,
        "steps": 10,
        "loss": 0.5,
        "trainable_parameters": 1234567,
        "adapter_bytes": 4_938_268,
        "seconds": {"training": 10.0, "total": 12.0},
        "peak_memory_bytes": 500_000_000,
        "nearest_words": None,
        "calibration": None,
        "versions": {},
        "hardware": {},
    }
    for name, value in changes.items():
        (made if name in made else made["arguments"])[name] = value
    return made


def base_to_new(method, base, new, harmonic_mean, seed=1) -> dict:
    summary = {"base": base, "new": new, "harmonic_mean": harmonic_mean}
    return result(method, seed=seed, protocol="base-to-new", shots=16, summary=summary)


def search(method, learning_rate, accuracy) -> dict:
    return result(method, accuracy, evaluate_on="validation", learning_rate=learning_rate)


def cells(text: str, heading: str) -> list[list[str]]:
    """The cells of the table under a heading of a report, row by row. The first row is the header."""
    lines = text.split(f"# {heading}")[1].split("\n#")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if line.startswith("|")]
    return [row for row in rows if "---" not in row[0]]
