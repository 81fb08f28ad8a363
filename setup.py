import re
from pathlib import Path

from setuptools import find_packages, setup


here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "peft_mudpt" / "_version.py").read_text())[1]

examples = ["accelerate>=1.3", "datasets>=4.0", "Pillow"]
report = ["matplotlib"]
export = ["onnx", "onnxscript"]
# torchao's releases want a torch about as new as themselves: it is left out where the lowest versions are tested
quantised = 'torchao; python_version >= "3.11"'
test = [*examples, *report, *export, "hypothesis", "onnxruntime", "pytest", "pytest-xdist", quantised]

setup(
    name="peft_mudpt",
    version=version,
    description="Few-shot adaptation of CLIP by multi-modal prompts, native to Hugging Face PEFT",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["peft_mudpt", "peft_mudpt.*"]),
    package_data={"peft_mudpt": ["py.typed", "demo/clip/*"]},
    python_requires=">=3.10",
    install_requires=["torch>=2.8", "transformers>=5.10.1", "peft>=0.21", "safetensors", "numpy"],
    extras_require={
        "examples": examples,  # the scripts, and the pictures of the embedded world
        "report": report,  # the pictures of examples/report.py
        "export": export,  # export_classifier(..., "onnx")
        "test": test,
        "dev": [*test, "ruff"],
    },
)
