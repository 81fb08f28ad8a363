"""Write the numbers of README.md: run the commands it names, and put what they print where it names them.

    python examples/update_readme.py             # all of them
    python examples/update_readme.py report      # those whose command holds this word

A block begins with `<!-- printed by: COMMAND -->` and ends with `<!-- end -->`.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path


README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"(<!-- printed by: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def printed(block: re.Match) -> str:
    begin, command, end = block.groups()
    if not all(word in command for word in sys.argv[1:]):
        return block[0]
    print(f"running: {command}")
    result = subprocess.run(shlex.split(command), cwd=README.parent, stdout=subprocess.PIPE, text=True, check=True)
    output = result.stdout if "|---" in result.stdout else f"```text\n{result.stdout}```\n"  # tables, or text
    return f"{begin}{output}{end}"


def main() -> None:
    README.write_text(BLOCK.sub(printed, README.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
