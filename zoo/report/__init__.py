"""One page to explore: `zoo report` writes a single HTML file from result lines, and static tables and pictures.

The plots are plotly.js, which the Python package ``plotly`` carries: kept up by a company and many users, with log
axes, error bars, hollow markers, box selection and touch. The page needs nothing else, and no server. Against it
stands its weight, 4.8 MB; page.py packs it to 2.0 MB, well below the 6 MB that mail takes. Vega-Lite (through altair
and vl-convert) is lighter and states linked selections more neatly, but evaluates strings as code or brings an
interpreter, and comes with 30 MB of binaries to install; Bokeh's linked brushing and table are good, but its themes are
decided when the page is written, and here the reader's system decides. Python packages of echarts and uPlot load the
library from a network, which an offline page cannot.

Result files are other people's input. Their text reaches the page packed, as data; the script makes text nodes of it,
never HTML; and the page's content security policy runs no script but the two whose hashes it names and loads nothing.
"""
