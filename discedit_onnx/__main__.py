"""`python -m discedit_onnx`."""

from .cli import main

main()
