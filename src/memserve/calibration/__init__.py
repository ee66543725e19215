"""`memserve calibrate`: what serving costs here, measured, fitted, and judged where the fit never looked."""
