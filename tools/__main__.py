"""`python -m onnx_compress`."""

import sys

from onnx_compress.cli import main

sys.exit(main())
