"""Tables of the report: columns and headings for the rows that `analysis` computes."""
