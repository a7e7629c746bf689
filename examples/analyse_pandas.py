"""Orders and revenue by country, with pandas: ``python analyse_pandas.py URL SESSION_ID``.

Reads 10,000 records at a time, so that memory does not grow with the merged object. Needs
``pip install pandas gapless``.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd

import gapless

url, session_id = sys.argv[1:]
with TemporaryDirectory() as folder, gapless.Client(url) as client:
    session = client.session(session_id)
    # "ndjson" or "ndjson.gz", as it is stored. pandas reads both.
    orders = Path(folder) / f"orders.{session.status().format}"
    session.download(orders)  # Verified: it raises unless size and CRC-32 are right.
    with pd.read_json(orders, lines=True, chunksize=10_000) as chunks:
        counted = [
            chunk.groupby("country").agg(orders=("id", "size"), revenue=("price", "sum"))
            for chunk in chunks
        ]
countries = pd.concat(counted).groupby("country").sum().sort_values("revenue", ascending=False)
print(countries.reset_index().to_string(index=False))
