"""`python -m peft_mudpt` is the command `peft-mudpt`; `accelerate launch -m peft_mudpt` runs several processes."""

from peft_mudpt_cli.command import main


if __name__ == "__main__":
    main()
