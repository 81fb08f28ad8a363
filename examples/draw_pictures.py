"""Draw pictures to try things on: one folder per class, as examples/fewshot.py reads from --train_dir.

python examples/draw_pictures.py my_pictures                     # 10 classes of the embedded world, 10 pictures each
python examples/draw_pictures.py new_pictures --seed 1           # other pictures of the same classes
"""

import argparse
from pathlib import Path

from peft_mudpt import demo
from peft_mudpt.lab.terminal import one_line_errors


CLASS_NAMES = demo.CLASS_NAMES[::10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folder", metavar="FOLDER", type=Path, nargs="?", default=Path("my_pictures"), help="Default: my_pictures."
    )
    parser.add_argument(
        "--style",
        choices=demo.STYLES,
        default=demo.ADAPTATION_STYLE,
        help=f"How the pictures look. Default: {demo.ADAPTATION_STYLE}.",
    )
    parser.add_argument("--images_per_class", type=int, default=10, help="Pictures of each class. Default: 10.")
    parser.add_argument("--seed", type=int, default=0, help="Seed; another one draws other pictures. Default: 0.")
    arguments = parser.parse_args()

    import numpy as np

    rng = np.random.default_rng(arguments.seed)
    for name in CLASS_NAMES:
        folder = arguments.folder / name.replace(" ", "_")
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(arguments.images_per_class):
            demo.paint(name, arguments.style, rng).save(folder / f"{i}.png")
    total = arguments.images_per_class * len(CLASS_NAMES)
    print(f"{arguments.folder}: {total} pictures of {len(CLASS_NAMES)} classes")


if __name__ == "__main__":
    with one_line_errors():
        main()
