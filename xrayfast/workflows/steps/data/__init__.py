"""Steps on the data of a use case: opening them, decoding their images, opening the data of a run again."""
