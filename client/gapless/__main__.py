"""``python -m gapless`` runs the command ``gapless``."""

from gapless.cli import main

main()
