"""Tables of measurements: medians over rounds, as Markdown."""

import pandas as pd


def medians(records: pd.DataFrame, by: str | list[str]) -> pd.DataFrame:
    """The median of each column over the rounds of a kind, in the order in which the kinds came."""
    return records.groupby(by, sort=False).median().reset_index()


def show(title: str, figures: pd.DataFrame) -> None:
    """Print the figures as a Markdown table."""
    print(f"\n{title}\n\n{markdown(figures)}", flush=True)


def markdown(frame: pd.DataFrame) -> str:
    """A frame as a Markdown table; whole numbers from 10,000 on have separators, an absent one is empty."""
    lines = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(object).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(_text, line)) + " |" for line in lines)


def _text(value: object) -> str:
    if isinstance(value, float):
        if pd.isna(value):
            return ""
        if not value.is_integer():
            return f"{value:g}"
        value = int(value)
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)
