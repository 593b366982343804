"""Speed of fastrnn, alone (pytest-benchmark) and beside other engines (``compare``)."""
