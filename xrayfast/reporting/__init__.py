"""What a run is shown as: figures (`figures`, `matrices`, `curves`, `overlays`), pages and cards."""
