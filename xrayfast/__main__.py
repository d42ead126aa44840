"""`python -m xrayfast`."""

from xrayfast.cli import main

main()
