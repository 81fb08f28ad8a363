"""Export an adapter for a server. This is `peft-mudpt export`.

python examples/export.py outputs/fewshot classifier.onnx                 # images in, class probabilities out
python examples/export.py outputs/fewshot outputs/folded                  # a folder: the folded adapter
"""

from peft_mudpt_cli.export import main


if __name__ == "__main__":
    main()
