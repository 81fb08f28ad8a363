"""Packages that only a part of this package needs: its extras."""

from importlib.util import find_spec


def install(extra: str) -> str:
    """
    Say how the packages of an extra are installed.

    Args:
        extra: an extra of this package, such as "report".

    Returns:
        A command, which works for a checkout, too, because this package is installed already.
    """
    return f'pip install "peft_mudpt[{extra}]"'


def require(what: str, extra: str, *packages: str) -> None:
    """
    Check that packages are installed, before any work.

    Args:
        what: what needs them, for the message.
        extra: the extra that installs them.
        packages: their names, as they are imported.

    Raises:
        ImportError: if one is missing. The message says how it is installed.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise ImportError(f"{what} needs {', '.join(missing)}: {install(extra)}")
