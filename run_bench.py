"""From nothing to a comparison table.

    python run_bench.py --variants vit,avit,avit_int8

trains a small Vision Transformer on real images of digits, makes the variants, measures all of them on this
machine, and writes runs/report.md. The same as `compress bench`; `--help` lists the options.
What it does is written down, top to bottom, in compress/verbs/bench.py.
"""

import sys

from compress.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
