"""The errors of a model's layers as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from workloads.quantization.gptq import QuantizedLayer


def draw(layers: Sequence[QuantizedLayer]) -> str:
    """An SVG of the errors: a column for each block, a line for each kind of layer, darker for more."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import colors, pyplot

    names = list(dict.fromkeys(layer.name for layer in layers)) or [""]
    blocks = max((layer.block for layer in layers), default=0) + 1
    grid = np.full((len(names), blocks), np.nan)
    for layer in layers:
        if layer.error is not None and layer.error > 0:
            grid[names.index(layer.name), layer.block] = layer.error
    with pyplot.rc_context({"svg.hashsalt": "layer-error", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(9, 0.42 * len(names) + 1.6))
        image = axes.imshow(
            np.ma.masked_invalid(grid),
            aspect="auto",
            cmap="YlOrRd",
            norm=colors.LogNorm() if np.isfinite(grid).any() else None,
            interpolation="nearest",
        )
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("block")
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]  # of the AutoLocator that it is
        figure.colorbar(image, ax=axes, label="mean squared error, weighed by the rows")
        figure.tight_layout()
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None, "Creator": None})
        pyplot.close(figure)
    return drawn.getvalue()
