"""`python -m neurorad VERB`."""

from neurorad.cli import main

main()
