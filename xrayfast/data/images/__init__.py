"""One file to one array: 8-bit gray pixels, whatever the encoding."""
