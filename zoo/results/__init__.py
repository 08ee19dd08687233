"""Results: one line of JSON a run or timing, one reader, one rule of aggregation.

Everything that shows results stands on this package: the terminal table, the plots, the page of `zoo report`, CSV,
Markdown and `benchmarks/study.py`. In the order of use:

- `run`, `recipe`: what was asked, and the key that follows from it.
- `line`: the schema of a line, and the only checker.
- `store`: `append`, the only writer, and `read`, the only reader.
- `group`: which runs are one net, and the mean, spread and standard error of its score.
- `table`, `plot`: what is shown of it. `escape`: how foreign text is shown safely.

Nothing here imports torch, and a line is never built from: it is data.
"""

from zoo.results.group import Comparison, NetResult, group
from zoo.results.line import SCHEMA, Line
from zoo.results.recipe import Recipe
from zoo.results.run import Run
from zoo.results.store import Results, append, read

__all__ = ["SCHEMA", "Comparison", "Line", "NetResult", "Recipe", "Results", "Run", "append", "group", "read"]
