"""`python -m worker`."""

from worker.cli.app import main

main()
