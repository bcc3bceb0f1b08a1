"""Write the tables of the documents anew from `results/`: `python tools/make_tables.py`.

Between `<!-- resnet-rs report results/NAME.jsonl -->` and `<!-- end -->` stands what that command prints.
"""

import re
from pathlib import Path

from resnet_rs.studies.summary import report

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted((ROOT / "docs").glob("*.md"))
_PLACE = re.compile(r"(<!-- resnet-rs report (\S+) -->\n).*?(<!-- end -->)", flags=re.DOTALL)


def filled(text):
    """`text` with every table made anew."""

    def table(place):
        head, path, end = place.groups()
        return f"{head}{report(ROOT / path)[0]}\n{end}"

    return _PLACE.sub(table, text)


if __name__ == "__main__":
    for document in DOCUMENTS:
        document.write_text(filled(document.read_text(encoding="utf-8")), encoding="utf-8")
