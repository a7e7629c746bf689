"""Orders and revenue by country, with DuckDB: ``python analyse_duckdb.py URL SESSION_ID``.

Needs ``pip install duckdb gapless``.
"""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb

import gapless

url, session_id = sys.argv[1:]
with TemporaryDirectory() as folder, gapless.Client(url) as client:
    session = client.session(session_id)
    # "ndjson" or "ndjson.gz", as it is stored. DuckDB reads both.
    orders = Path(folder) / f"orders.{session.status().format}"
    session.download(orders)  # Verified: it raises unless size and CRC-32 are right.
    query = """
        SELECT country, count(*) AS orders, sum(price) AS revenue
        FROM read_ndjson(?) GROUP BY country ORDER BY revenue DESC
    """
    duckdb.sql(query, params=[str(orders)]).show()
