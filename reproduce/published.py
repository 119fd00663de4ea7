"""The numbers that the paper published: Tables 3 to 6 and Figure 6 (He et al., ICCV 2023).

SRCC, PLCC ("LCC" in the paper) and accuracy are on the test split; epochs are those of training;
FLOPs are in units of 1e9 ("G"), as printed. Figure 6 is read off the plot, to about ±.002.
Nothing of the project is imported here, so that all of it can import this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

METRICS = ("srcc", "plcc", "accuracy")
# The published network ("Ours"); rows of the tables differ from it in some of these options.
PUBLISHED_NETWORK: dict[str, Any] = {
    "stages": "SSGG",
    "offsets": True,
    "gate": True,
    "color_spaces": 6,
    "interest_kernel": 1,
}


@dataclass(frozen=True)
class Row:
    """One line of a table, or one point of a curve."""

    name: str
    srcc: float | None  # None: not published
    plcc: float | None = None
    accuracy: float | None = None
    epochs: int | None = None
    flops: float | None = None
    # How "Ours" is told to be this row: model options and `targets`; empty for other methods.
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table, or one curve of a figure.

    files: the experiments `reproduce/FILE.yml` that run it. varied: the keys that their trials
    choose, besides the seed. stand_in: settings that replace the rows' where the built-in sample
    stands in for the data set, to try everything out.
    """

    title: str
    files: tuple[str, ...]
    dataset: str
    targets: tuple[str, ...]
    varied: tuple[str, ...]
    rows: tuple[Row, ...]
    others: tuple[Row, ...] = ()  # methods that the paper compares with
    stand_in: Mapping[str, Any] = field(default_factory=dict)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Those of `METRICS` that the paper gives."""
        return tuple(m for m in METRICS if any(getattr(row, m) is not None for row in self.rows))

    def settings(self, row: Row, dataset: str) -> dict[str, Any]:
        """All that makes a run on `dataset` (the table's own or sample) one of `row`."""
        settings = {**PUBLISHED_NETWORK, "targets": self.targets, **row.settings}
        return settings if dataset == self.dataset else {**settings, **self.stand_in}


ONLY_COLOR = ("color",)

TABLE_3 = Table(
    title="Table 3: ICAA17K",
    files=("table3_ours1", "table3_ours2"),
    dataset="icaa17k",
    targets=ONLY_COLOR,
    varied=(),
    rows=(
        Row("Ours *1", 0.873, 0.890, 0.957, 25),
        Row("Ours *2", 0.887, 0.901, 0.965, 40, settings={"targets": ("MOS", "color")}),
    ),
    others=(
        Row("RAPID", 0.759, 0.771, 0.836, 80),
        Row("AADB", 0.788, 0.793, 0.887, 60),
        Row("PAM", 0.796, 0.804, 0.899, 60),
        Row("A-Lamp", 0.810, 0.818, 0.908, 50),
        Row("NIMA", 0.809, 0.815, 0.906, 60),
        Row("MPada", 0.810, 0.819, 0.906, 50),
        Row("MLSP", 0.826, 0.837, 0.921, 50),
        Row("MT-A", 0.821, 0.830, 0.908, 60),
        Row("BIAA", 0.820, 0.829, 0.913, 100),
        Row("UIAA", 0.817, 0.830, 0.910, 60),
        Row("MUSIQ", 0.835, 0.841, 0.918, 80),
        Row("HGCN", 0.826, 0.831, 0.909, 60),
        Row("TANet", 0.829, 0.836, 0.903, 110),
        Row("MaxViT", 0.855, 0.874, 0.920, 200),
    ),
)
TABLE_4 = Table(
    title="Table 4: SPAQ, colorfulness",
    files=("table4",),
    dataset="spaq",
    targets=("Colorfulness",),
    varied=(),
    rows=(Row("Ours *1", 0.770, 0.791, epochs=25, settings={"gate": False}),),
    others=(
        Row("RAPID", 0.721, 0.730, epochs=95),
        Row("AADB", 0.725, 0.739, epochs=75),
        Row("PAM", 0.732, 0.744, epochs=70),
        Row("A-Lamp", 0.747, 0.760, epochs=65),
        Row("NIMA", 0.730, 0.746, epochs=55),
        Row("MPada", 0.746, 0.757, epochs=65),
        Row("MLSP", 0.753, 0.773, epochs=55),
        Row("MT-A", 0.751, 0.763, epochs=30),
        Row("BIAA", 0.748, 0.759, epochs=85),
        Row("UIAA", 0.750, 0.763, epochs=70),
        Row("MUSIQ", 0.753, 0.770, epochs=90),
        Row("HGCN", 0.755, 0.771, epochs=45),
        Row("TANet", 0.750, 0.761, epochs=110),
        Row("MaxViT", 0.753, 0.770, epochs=150),
    ),
    stand_in={"targets": ("MOS",), "gate": False},
)
TABLE_5 = Table(
    title="Table 5: attention of each stage (S Swin, D deformable, G delegate), ICAA17K",
    files=("table5",),
    dataset="icaa17k",
    targets=ONLY_COLOR,
    varied=("stages",),
    rows=tuple(
        Row(stages, srcc, plcc, flops=flops, settings={"stages": stages})
        for stages, flops, srcc, plcc in (
            ("SSSS", 240, 0.830, 0.843),
            ("SSDD", 240, 0.836, 0.848),
            ("SSGG", 140, 0.873, 0.890),
            ("GGSS", 210, 0.828, 0.835),
            ("SGGS", 140, 0.838, 0.850),
            ("GSSG", 210, 0.825, 0.833),
            ("GGGG", 130, 0.837, 0.846),
        )
    ),
)
TABLE_6 = Table(
    title="Table 6: modules removed, ICAA17K",
    files=("table6",),
    dataset="icaa17k",
    targets=ONLY_COLOR,
    varied=("offsets", "gate", "color_spaces"),
    rows=(
        Row("none", 0.873, 0.890, flops=140),
        Row("no Net_o", 0.851, 0.875, flops=139.97, settings={"offsets": False}),
        Row("no Net_g", 0.860, 0.877, flops=139.97, settings={"gate": False}),
        Row("no space segmentation", 0.843, 0.855, flops=139.993, settings={"color_spaces": 0}),
    ),
)
FIGURE_6_COLOR_SPACES = Table(
    title="Figure 6: number of color spaces, ICAA17K",
    files=("figure6_color_spaces",),
    dataset="icaa17k",
    targets=ONLY_COLOR,
    varied=("color_spaces",),
    rows=tuple(
        Row(f"{count}", srcc, settings={"color_spaces": count})
        for count, srcc in enumerate(
            (0.830, 0.843, 0.856, 0.861, 0.865, 0.870, 0.872, 0.870, 0.860, 0.835), start=1
        )
    ),
)
FIGURE_6_INTEREST_KERNEL = Table(
    title="Figure 6: kernel size of Net_i, ICAA17K",
    files=("figure6_interest_kernel",),
    dataset="icaa17k",
    targets=ONLY_COLOR,
    varied=("interest_kernel",),
    rows=tuple(
        Row(f"{kernel}", srcc, settings={"interest_kernel": kernel})
        for kernel, srcc in enumerate(
            # The curve starts at 2; 1 is what the released code uses.
            (None, 0.830, 0.851, 0.860, 0.869, 0.873, 0.870, 0.869, 0.853, 0.830),
            start=1,
        )
    ),
)
FIGURE_6 = (FIGURE_6_COLOR_SPACES, FIGURE_6_INTEREST_KERNEL)
TABLES = (TABLE_3, TABLE_4, TABLE_5, TABLE_6, *FIGURE_6)


def published_metrics(
    dataset: str, targets: tuple[str, ...]
) -> tuple[str, dict[str, float]] | None:
    """Name ("Ours *1") and test metrics of the published network for a data set and its targets;
    None where there are none. Tables 3 and 4."""
    for table in (TABLE_3, TABLE_4):
        for row in table.rows:
            if (dataset, targets) == (table.dataset, table.settings(row, dataset)["targets"]):
                return row.name, {metric: getattr(row, metric) for metric in table.metrics}
    return None
