"""Report the results in a folder of experiments. This is `peft-mudpt report`.

python examples/report.py outputs/lab                          # writes outputs/lab/report/report.md and its plots
python examples/report.py outputs/my_pictures --html           # also writes outputs/my_pictures/report/report.html
python examples/report.py outputs/lab --paired ivlp --paired mudpt
"""

from peft_mudpt_cli.report import main


if __name__ == "__main__":
    main()
