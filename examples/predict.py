"""Classify pictures with a saved adapter. This is `peft-mudpt predict`.

python examples/predict.py outputs/fewshot picture.jpg another.jpg
python examples/predict.py outputs/fewshot photos/ --output predictions.csv
accelerate launch examples/predict.py outputs/fewshot pictures.parquet --output predictions.parquet
"""

from peft_mudpt_cli.predict import main


if __name__ == "__main__":
    main()
