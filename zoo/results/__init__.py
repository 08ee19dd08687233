"""Results: one line of JSON per run or timing, one reader, one rule of aggregation.

Every view of results uses this package: the terminal table, the plots, the page of `zoo report`, CSV, Markdown and
`benchmarks/study.py`. In order of use:

- `run`, `recipe`: the request and its key.
- `line`: the schema of a line, and the only checker.
- `store`: `append`, the only writer, and `read`, the only reader.
- `group`: runs of one net, with the mean, spread and standard error of the score.
- `table`, `plot`: display. `escape`: safe display of foreign text.

Nothing here imports torch. A line is data; nothing is ever built from it.
"""

from zoo.results.group import Comparison, NetResult, group
from zoo.results.line import SCHEMA, Line
from zoo.results.recipe import Recipe
from zoo.results.run import Run
from zoo.results.store import Results, append, read

__all__ = ["SCHEMA", "Comparison", "Line", "NetResult", "Recipe", "Results", "Run", "append", "group", "read"]
