"""Which image is in which split: assignment and stratified, grouped drawing."""
