"""Assignment of images to splits: given splits, words for them, and stratified drawing that keeps groups together."""
