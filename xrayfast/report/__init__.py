"""What a run is shown as: figures (`figures`) and one self-contained page (`page`)."""
