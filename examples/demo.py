"""Try an adapter in a browser. This is `peft-mudpt demo`.

python examples/demo.py outputs/fewshot                       # open the address that it prints; Ctrl-C ends it
python examples/demo.py user/adapter --classes "cat,dog"
"""

from peft_mudpt_cli.demo import main


if __name__ == "__main__":
    main()
