"""Update the printed blocks of README.md and docs/: run the command that each block names, and insert its output.

    python examples/update_docs.py             # all blocks
    python examples/update_docs.py presets     # blocks whose command contains this word

A block begins with `<!-- printed by: COMMAND -->` and ends with `<!-- end -->`.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path


ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"(<!-- printed by: (.+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def printed(block: re.Match) -> str:
    begin, command, end = block.groups()
    if not all(word in command for word in sys.argv[1:]):
        return block[0]
    print(f"running: {command}")
    program, *arguments = shlex.split(command)
    program = sys.executable if program == "python" else program
    result = subprocess.run([program, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    output = result.stdout if "|---" in result.stdout else f"```text\n{result.stdout}```\n"  # tables are Markdown
    return f"{begin}{output}{end}"


def main() -> None:
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        page.write_text(BLOCK.sub(printed, page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
