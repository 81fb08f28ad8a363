"""Which formats of pictures can be read."""

from __future__ import annotations


def register_formats() -> None:
    """Let Pillow read HEIC, the format of many telephones, if the package `pillow-heif` is installed."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()
