"""Runs evidently in its own environment: reads pairs of samples as JSON and writes the PSI of each.

Args: none. Stdin: ``[{"reference": [...], "now": [...], "categories": bool}, …]``. Stdout: a list of numbers.
"""

from __future__ import annotations

import json
import sys
import warnings


def main() -> None:
    """Answer one request."""
    warnings.filterwarnings("ignore")
    import pandas
    from evidently.legacy.calculations.stattests import psi_stat_test
    from evidently.legacy.core import ColumnType

    answers = []
    for case in json.load(sys.stdin):
        kind = ColumnType.Categorical if case["categories"] else ColumnType.Numerical
        value, _ = psi_stat_test.func(pandas.Series(case["reference"]), pandas.Series(case["now"]), kind, 0.1)
        answers.append(float(value))
    json.dump(answers, sys.stdout)


if __name__ == "__main__":
    main()
