"""Run a script that knows timm's models, and let it know ours: ``python -m zoo.timm train.py ...``.

timm looks models up by name when they are created, but imports nobody's. Its own ``train.py`` can be told to
(``--device-modules zoo``); ``validate.py``, ``inference.py``, ``benchmark.py`` and ``onnx_export.py`` cannot.
"""

import argparse
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

import zoo

EXAMPLES = """\
examples:
  python -m zoo.timm train.py data --model fishnet99 --amp
  python -m zoo.timm validate.py data --model zoo_resnet50 --checkpoint last.pth.tar
  python -m zoo.timm benchmark.py --model fabric_a_l8_s4_c64x2_post
  torchrun --nproc-per-node 2 -m zoo.timm train.py data --model preresnet50

The scripts lie in timm's repository. `zoo list` shows the models; where timm owns a name, ours begins with zoo_.
A folder that holds the sources of timm is preferred to the installed timm if it is the current one."""


def build_parser() -> argparse.ArgumentParser:
    """The command line; what follows the script is the script's own."""
    parser = argparse.ArgumentParser(
        prog="python -m zoo.timm",
        description="Run a Python script in a process in which timm knows the models of the zoo.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("script", help="path of a Python script that creates models through timm")
    parser.add_argument("args", nargs=argparse.REMAINDER, help="arguments of the script")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script as ``python script args`` would, with ``zoo`` imported."""
    parser = build_parser()
    given = parser.parse_args(argv)
    script = Path(given.script)
    if not script.is_file():
        parser.error(f"script ({given.script}) is not a file; give the path of a Python script, then its arguments")
    assert zoo.list_models(), "importing the package registers its models"
    sys.argv = [given.script, *given.args]
    sys.path[0] = str(script.resolve().parent)
    runpy.run_path(given.script, run_name="__main__")


if __name__ == "__main__":
    main()
