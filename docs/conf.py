"""The site: `sphinx-build -W docs build/docs`, after `pip install -e ".[cpu,docs]"`."""

from importlib import metadata

project = "discedit-onnx"
copyright = "the authors of discedit-onnx"
release = metadata.version(project)

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["plot_bounds.py"]

html_theme = "furo"
html_title = f"{project} {release}"

myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]

napoleon_google_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
