"""`python -m saescope`."""

from saescope.cli import main

main()
