"""`accelerate launch -m zoo.bench NAME...`: the verb `zoo bench` as a module, for launchers of several processes."""

import sys

from zoo_cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
