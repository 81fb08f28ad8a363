"""The page, made by Gradio."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from html import escape
from typing import Any, Optional

import gradio as gr
from gradio.data_classes import ImageData

from .demo import LONGEST_LIST, Demo, names_in


LARGEST_PICTURE = "50mb"
HOUR = 3600  # after which pictures are deleted
TOP = 5
HEIGHT = 320  # of both pictures
THEME = gr.themes.Default(
    primary_hue="indigo",
    font=["system-ui", "sans-serif"],  # Gradio's own fonts would be fetched from another server
    font_mono=["ui-monospace", "monospace"],
).set(  # Gradio's own colors have too little contrast to be read easily
    block_info_text_color="*neutral_600",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
)
FOR_EACH_LINE = "One class in each line, in any words."
LEARNED = "This classifier has learned these classes without texts, so that it takes no others."


def make_page(demo: Demo) -> gr.Blocks:
    """
    Make the page.

    Args:
        demo: what answers.

    Returns:
        The page, which is not served yet.
    """
    own_classes = "\n".join(demo.class_names)

    def answer(file: Optional[str], classes: str, with_adapter: bool) -> tuple[Any, Any, str]:
        if file is None:
            return None, None, ""
        try:
            # own names are not read again: they may hold blanks or line breaks, which typed ones cannot
            found = demo.answer(file, None if classes == own_classes else names_in(classes), with_adapter)
        except ValueError as error:
            gr.Warning(escape(str(error)), duration=None)  # stays until it is closed
            return None, None, ""
        return found.probabilities, found.picture, found.note

    with gr.Blocks(title=demo.about.title, analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(demo.about.as_markdown())
        with gr.Row():
            with gr.Column():
                picture = gr.Image(label="Picture", type="filepath", image_mode=None, height=HEIGHT)
                # Gradio would decode the file, and answer in its own words if that fails; we read more formats.
                picture.preprocess = _path_of  # type: ignore[method-assign]
                probabilities = gr.Label(label="Classes by probability", num_top_classes=TOP)
            with gr.Column():
                classes = gr.Textbox(
                    own_classes,
                    label="Classes",
                    info=FOR_EACH_LINE if demo.takes_classes else LEARNED,
                    lines=5,
                    max_lines=10,
                    max_length=LONGEST_LIST,
                    interactive=demo.takes_classes,
                )
                use_classes = gr.Button("Use these classes", variant="primary", visible=demo.takes_classes)
                with_adapter = gr.Checkbox(
                    True,
                    label="With the adapter",
                    info="Switch it off to compare with the plain CLIP.",
                    visible=demo.has_adapter,
                )
                seen = gr.Image(
                    label="Where CLIP looks",
                    format="png",
                    interactive=False,
                    height=HEIGHT,
                    buttons=["fullscreen"],
                    elem_id="seen",
                )
                note = gr.Markdown()
        gr.on(
            [picture.change, use_classes.click, with_adapter.change],
            answer,
            [picture, classes, with_adapter],
            [probabilities, seen, note],
            api_name="classify",
        )
    return page


def launch(demo: Demo, host: Optional[str] = None, port: Optional[int] = None, share: bool = False) -> None:
    """
    Serve the page until Ctrl-C, and print its address.

    Args:
        demo: what answers.
        host: the address to listen at; None: this machine only, or what the variable GRADIO_SERVER_NAME says.
        port: the port; None: the first free one from 7860 on.
        share: whether Gradio also makes a public address for a week, through servers of its own.

    Raises:
        OSError: if the server cannot start, such as at a port that is in use, or at an address of another machine.
    """
    try:
        if host is not None:
            _check_host(host)
        page = make_page(demo)
        page.launch(
            server_name=host,
            server_port=port,
            share=share,
            theme=THEME,
            max_file_size=LARGEST_PICTURE,
            footer_links=[],
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
        )
    except OSError as error:
        where = f"{host or 'this machine'}{'' if port is None else f', port {port}'}"
        raise OSError(f"The page cannot be served at {where}. Give another --host or --port. ({error})") from error
    print(f"{page.share_url or page.local_url}  (Ctrl-C ends it)", flush=True)
    with suppress(KeyboardInterrupt):
        while page.is_running:
            time.sleep(0.1)
    page.close(verbose=False)


def _check_host(host: str) -> None:
    """Raise an OSError if no server can listen there. Gradio would try a hundred ports, for 5 seconds each."""
    family, kind, protocol, _, address = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind, protocol) as tried:
        tried.bind(address)


def _path_of(payload: Optional[ImageData]) -> Optional[str]:
    return None if payload is None else payload.path
