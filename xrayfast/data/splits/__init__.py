"""Assignment of images to splits: given splits, and stratified drawing that keeps groups together."""
