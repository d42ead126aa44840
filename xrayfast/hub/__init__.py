"""Runs on the Hugging Face Hub or a compatible server.

- `download`: downloads allow-listed files of `hf:ORG/NAME@REVISION`.
- `identifying`: finds text that could identify patients, files or the person who trained a run.
"""
