"""Try an adapter in a browser, or write a Hugging Face Space that shows the page. This is `peft-mudpt demo`.

python examples/demo.py outputs/fewshot                       # open the address that it prints; Ctrl-C ends it
python examples/demo.py outputs/fewshot --space my_space      # write a folder to upload as a Space
"""

from peft_mudpt_cli.demo import main


if __name__ == "__main__":
    main()
