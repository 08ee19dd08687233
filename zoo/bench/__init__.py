"""The benchmark: one recipe for every net on images that need no download, resumable, with tables and plots.

From what is asked to what is shown: `recipe`, `data`, `train`, `results` (lines on disk), `runner` (a sweep), `report`
(rows and tables), `plot`. `measure` and `speed` time nets side by side. Nothing here knows a family of
models; nets come from `zoo.registry` by name.
"""
