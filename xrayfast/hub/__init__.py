"""Runs on the Hugging Face Hub, or another server of its kind.

- `download`: `hf:ORG/NAME@REVISION` as a folder of allow-listed files.
- `identifying`: what in texts could identify patients, files or whoever trained a run.
"""
