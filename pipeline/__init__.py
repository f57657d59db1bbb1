"""The compression chain: teacher, distil, prune, quantize, and the store that keeps what each stage leaves behind."""
