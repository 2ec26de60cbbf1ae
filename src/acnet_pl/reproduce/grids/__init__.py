"""Tables and figures of the article, and smaller grids, one module each, with a `GRID`."""
