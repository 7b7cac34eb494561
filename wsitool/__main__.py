"""`python -m wsitool`: the command line, where its script is not on the path."""

from wsitool.cli import main

if __name__ == "__main__":
    main()
