"""The benchmark: one recipe for every net on images that need no download, resumable, with tables and plots.

From what is asked to the stored line: `recipes`, `data`, `train`, `attempt` (one run), `runner` (a sweep). The lines,
and what is shown of them, are `zoo.results`. `measure` and `speed` time nets side by side. Nothing here knows a family
of models; nets come from `zoo.registry` by name.
"""
