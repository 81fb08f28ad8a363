"""
The command `peft-mudpt`. Each subcommand is a module with `make_parser` and `main`.

It is a package of its own, because `import peft_mudpt` imports torch and registers the methods with PEFT, which takes
seconds: help and mistakes in flags need not wait for it, and `peft-mudpt doctor` answers where it fails.
"""
