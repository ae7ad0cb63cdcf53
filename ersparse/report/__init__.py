"""Reports on finished runs: tables, figures and one HTML page.

`analysis` computes numbers from run folders; `tables` and `figures` present them; `section` and `page` assemble them.
"""
