"""What a run is shown as: figures (`figures`, `matrices`) and one self-contained page (`page`)."""
