"""Write results as one HTML file to explore (`zoo report`), and as static tables and pictures.

The plots use plotly.js, which the Python package ``plotly`` carries. It is maintained by a company and many users, and
has log axes, error bars, hollow markers, box selection and touch. The page needs nothing else, and no server. The cost
is its size of 4.8 MB; page.py packs it to 2.0 MB, well below the 6 MB that mail takes. Vega-Lite (through altair and
vl-convert) is lighter and states linked selections more neatly, but evaluates strings as code or brings an interpreter,
and comes with 30 MB of binaries to install. Bokeh's linked brushing and table are good, but its themes are fixed when
the page is written; here the reader's system decides. Python packages of echarts and uPlot load the library from a
network, which an offline page cannot do.

Result files are other people's input. Their text reaches the page packed, as data. The script makes text nodes of it,
never HTML. The page's content security policy runs no script but the two whose hashes it names, and loads nothing.
"""
