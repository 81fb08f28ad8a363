"""Test a saved adapter on another folder of labeled pictures, without training. This is `peft-mudpt evaluate`.

python examples/evaluate.py outputs/my_pictures other_pictures          # one folder of pictures per class
python examples/evaluate.py outputs/my_pictures other_pictures --output found.json --confusion_matrix confusion.csv
python examples/evaluate.py user/adapter other_pictures --class_names names.txt
"""

from peft_mudpt_cli.evaluate import main


if __name__ == "__main__":
    main()
