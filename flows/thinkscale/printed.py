"""What is printed when an analysis is done: short tables, findings with their rows, what is missing, where everything is.

Why: the answer belongs on the screen, its rows in the files.
What it does not do: compute anything, or write a file.
"""

import math

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from thinkscale.compare import comparison_table
from thinkscale.compliance import compliance_table
from thinkscale.findings import told_apart
from thinkscale.report import CLAIMED, ROUTES, Analysis

SHOWN_KEYS = ("axis", "at", "cell_id", "law", "method")
"""Of a finding's row, what is printed beside it: the rest is said in the sentence."""
COMPLIANCE_ROWS = 24
"""More cells than this are not printed; compliance.parquet has them all."""


def show(analysis: Analysis) -> None:
    """Print the comparison, the claims, what is owed and where everything is."""
    console = Console(width=118)
    if len(analysis.headline):
        console.print(comparison_table(analysis.headline))
    if len(analysis.rates):
        console.print(rates_table(analysis.rates))
    if len(analysis.claims):
        console.print(claims_table(analysis.claims))
    if 0 < len(analysis.compliance) <= COMPLIANCE_ROWS:
        console.print(compliance_table(analysis.compliance))
    for question, said in analysis.findings.items():
        if question in (ROUTES, CLAIMED):  # the tables above
            continue
        if said:
            console.print(f"[bold]{question}[/bold]")
        for finding in said:
            row = ", ".join(str(v) if name == "at" else f"{name}={v}" for name, v in finding.row.items() if name in SHOWN_KEYS)
            console.print(
                f"  {escape(finding.text)}" + (f" [dim]({finding.table}.parquet: {escape(row)})[/dim]" if row else ""), highlight=False
            )
    if analysis.owed:
        console.print(f"[bold]Not complete:[/bold] {analysis.owed:,} planned answers are owed; the tables hold what is there.")
    elif analysis.to_score:
        console.print(f"[bold]Not complete:[/bold] the gold answers of {analysis.to_score:,} answers are still to be scored.")
    if analysis.unscored:
        console.print(f"[bold]Not scored:[/bold] {analysis.unscored:,} answers; points by the verifier are undefined until they are.")
    if analysis.quarantined:
        where = analysis.quarantined[0].parent
        console.print(
            f"[bold]Set aside:[/bold] {len(analysis.quarantined)} parts that were not whole or not ours, in {escape(str(where))}."
        )
    if len(analysis.engines) > 1:
        console.print(f"[bold]Engines mixed:[/bold] these answers come from {escape(', '.join(analysis.engines))}.")
    for file in analysis.files:
        console.print(f"  {escape(str(file))}", soft_wrap=True, highlight=False)


def rates_table(rates: pd.DataFrame) -> Table:
    """What a doubling of parameters is worth on each route, over all problems; voting at the smallest thinking budget."""
    caption = (
        "Doublings of thinking tokens, or of samples that vote, which buy what a doubling of parameters buys (∞: they bought nothing), "
        "from the plane logit(accuracy) = a + b log2 parameters + c log2 thinking. R² says how well the plane fits: where a skill "
        "appears all at once it does not, and exchange.exchange_rates has the rate of each pair of sizes."
    )
    table = Table(title="What is a doubling of parameters worth?", title_justify="left", caption=caption, caption_justify="left")
    for name, justify in (("skill", "left"), ("route", "left"), ("doublings", "right"), ("R²", "right")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    shown = rates[(rates["slice"] == "all") & ((rates["route"] == "think longer") | (rates["metric"] == "maj@k"))]
    conditions = ["prompt", "thinking_route", "sampling"]
    for _, rows in shown.sort_values(["benchmark", "thinking_budget"]).groupby(["benchmark", "route", *conditions], sort=True):
        row = rows.iloc[0].to_dict()
        apart = told_apart({str(k): v for k, v in row.items()}, shown[shown["route"] == row["route"]], "thinking_route").strip()
        eta, low, high = (f"{row[c]:+.2f}".replace("+inf", "∞") for c in ("eta", "low", "high"))
        told = ("no rate: nothing changes", "") if math.isnan(row["eta"]) else (f"{eta} [{low}, {high}]", f"{row['r2']:.2f}")
        table.add_row(row["benchmark"], f"{row['route']} {apart}".strip(), *told)
    return table


def claims_table(checked: pd.DataFrame) -> Table:
    """The claims of the YAML with their intervals and verdicts."""
    table = Table(title="Claims named in the YAML before the data were drawn", title_justify="left")
    columns = {"claim": "left", "difference in points": "right", "problems": "right", "verdict": "left", "p (Holm)": "right"}
    for name, justify in columns.items():
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in checked.to_dict("records"):
        sides = f"{row['claim']} ({row['benchmark']}, {row['slice']})"
        sides += f"\n  {row['better']}: {row['better_value']:.1%}\n  {row['worse']}: {row['worse_value']:.1%}"
        interval = f"{100 * row['difference']:+.1f} [{100 * row['low']:+.1f}, {100 * row['high']:+.1f}]"
        table.add_row(
            escape(sides), interval, f"{row['num_problems']:,}", row["verdict"] + _at_cost(row["cost_ratio"]), f"{row['p_holm']:.2g}"
        )
    return table


def _at_cost(ratio: float) -> str:
    if math.isnan(ratio):
        return ""
    return f"\nat {ratio:.2g} × the FLOPs" + (":\nnot compute-matched" if ratio > 1 else "")
