"""The stage `quantize`: one file for each kind of number format, and one for what they share."""
